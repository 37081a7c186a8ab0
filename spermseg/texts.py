"""Texts that strangers wrote, made harmless for where people read them; one function for each kind of place.

Names of files, of their folders and of annotated parts come from uploads. In a terminal they could clear the screen, in
a spreadsheet calculate, in a page be markup. Here they are shown for what they are, and stay recognisable.
"""

import json
import re
import unicodedata
from typing import Any

_JOINERS = "\u200c\u200d"
"""Without a shape of their own, but Persian, Hindi and emoji are not written without them."""
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what has no shape: control characters, marks that turn the direction, halves of a character,
ends of lines and of paragraphs."""
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

_CALCULATES = r"""(?=[\s'"]*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20])"""
"""What a spreadsheet calculates, full-width signs included, also behind spaces and quotes."""
_FORMULA = re.compile(rf"(?:^|(?<=;)){_CALCULATES}")
"""Where a cell begins for a reader that separates by commas or tabs, or by semicolons. A tab is not there any more."""
_KEPT_FORMULA = re.compile(rf"(?:^|(?<=;))'{_CALCULATES}")

_MARKDOWN = re.compile(r"[\\`*_\[\]|~!#@:]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def composed(text: str) -> str:
    r"""Return a name in NFC, in which the same name is the same text: some systems write u and two dots for an umlaut.

    >>> composed("Mu\u0308ller") == "M\u00fcller"
    True
    """
    return unicodedata.normalize("NFC", text)


def visible(text: object) -> str:
    r"""Return a text as one line of a terminal, a log or a page: what has no shape is written as an escape.

    >>> visible("M\u00fcller 精子 (2).png")
    'Müller 精子 (2).png'
    >>> print(visible("a\x1b[2J\u202egnp.exe"))
    a\x1b[2J\u202egnp.exe
    """
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_seen, shown))


def _seen(letter: str) -> str:
    if letter in _JOINERS or unicodedata.category(letter) not in _UNSEEN:
        return letter
    return _NAMED.get(letter) or letter.encode("unicode_escape").decode()


def is_text(name: str) -> bool:
    r"""Whether a name can be written down: one that a system could not read as UTF-8 holds halves of characters.

    >>> is_text("Müller.png"), is_text("M\udcfcller.png")
    (True, False)
    """
    return not any(unicodedata.category(letter) == "Cs" for letter in name)


def csv_cell(text: str) -> str:
    r"""Return a text as a cell of a CSV that no spreadsheet calculates, be it read by comma, semicolon or tab.

    An apostrophe stands before what would be a formula. Source: OWASP, CSV Injection.

    >>> print(csv_cell("=1+1"), csv_cell("a;=1+1"), csv_cell("\t@SUM(A1)"), csv_cell("Müller; 2-3"))
    '=1+1 a;'=1+1 \t@SUM(A1) Müller; 2-3
    """
    return _FORMULA.sub("'", visible(text))


def read_csv_cell(text: str) -> str:
    """Return the text of which `csv_cell` made a cell, where all of its characters can be seen.

    >>> read_csv_cell(csv_cell("=1+1")), read_csv_cell("'n Beeld")
    ('=1+1', "'n Beeld")
    """
    return _KEPT_FORMULA.sub("", text)


def markdown(text: str) -> str:
    r"""Return a text that Markdown shows as it is, in a paragraph, a heading or a cell of a table.

    >>> print(markdown("head|[x](http://y) <b>"))
    head\|\[x\](http\://y) &lt;b&gt;
    """
    escaped = _MARKDOWN.sub(r"\\\g<0>", visible(text)).replace("www.", r"www\.")
    return "".join(_HTML.get(letter, letter) for letter in escaped)


def json_text(content: Any) -> str:
    r"""Return JSON that a person can read in a terminal: letters as they are, what has no shape as JSON's escapes.

    >>> print(json_text({"name": "Müller\x9b"}), end="")
    {
      "name": "Müller\u009b"
    }
    """
    lines = json.dumps(content, indent=2, ensure_ascii=False).split("\n")
    return "\n".join("".join(map(_json_letter, line)) for line in lines) + "\n"


def _json_letter(letter: str) -> str:
    return letter if _seen(letter) == letter else json.dumps(letter)[1:-1]
