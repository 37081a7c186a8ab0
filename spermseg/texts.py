"""Escaping of untrusted text, with one function for each output: terminal, CSV, Markdown and JSON.

Names of files, folders and annotated parts come from uploads. In a terminal such a name could clear the screen, in a
spreadsheet it could be a formula, and in a page it could be markup. Escaped names are harmless and stay recognisable.
"""

import json
import re
import unicodedata
from typing import Any

_JOINERS = "\u200c\u200d"
"""The zero-width joiners. Persian, Hindi and emoji need them, so they are kept."""
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of invisible characters: control and format characters (such as direction marks), surrogates, line
and paragraph separators."""
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

_CALCULATES = r"""(?=[\s'"]*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20])"""
"""The first characters of a formula, full-width signs included, also behind spaces and quotes."""
_FORMULA = re.compile(rf"(?:^|(?<=;)){_CALCULATES}")
"""A formula at the start of a cell, for readers that split at commas, tabs or semicolons. Tabs are escaped before."""
_KEPT_FORMULA = re.compile(rf"(?:^|(?<=;))'{_CALCULATES}")

_MARKDOWN = re.compile(r"[\\`*_\[\]|~!#@:]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def composed(text: str) -> str:
    r"""Return a name in Unicode NFC, so that equal names compare equal. Some systems decompose an umlaut into two.

    >>> composed("Mu\u0308ller") == "M\u00fcller"
    True
    """
    return unicodedata.normalize("NFC", text)


def visible(text: object) -> str:
    r"""Return a text as one line for a terminal, a log or a page. Invisible characters are escaped.

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
    r"""Whether a name can be encoded as UTF-8. A file name with invalid bytes holds surrogates, which cannot.

    >>> is_text("Müller.png"), is_text("M\udcfcller.png")
    (True, False)
    """
    return not any(unicodedata.category(letter) == "Cs" for letter in name)


def csv_cell(text: str) -> str:
    r"""Return a text as a CSV cell that no spreadsheet takes for a formula, split at commas, semicolons or tabs.

    An apostrophe is put before each formula. Source: OWASP, CSV Injection.

    >>> print(csv_cell("=1+1"), csv_cell("a;=1+1"), csv_cell("\t@SUM(A1)"), csv_cell("Müller; 2-3"))
    '=1+1 a;'=1+1 \t@SUM(A1) Müller; 2-3
    """
    return _FORMULA.sub("'", visible(text))


def read_csv_cell(text: str) -> str:
    """Undo `csv_cell`, for a text without invisible characters.

    >>> read_csv_cell(csv_cell("=1+1")), read_csv_cell("'n Beeld")
    ('=1+1', "'n Beeld")
    """
    return _KEPT_FORMULA.sub("", text)


def markdown(text: str) -> str:
    r"""Escape a text for a paragraph, a heading or a table cell of Markdown.

    >>> print(markdown("head|[x](http://y) <b>"))
    head\|\[x\](http\://y) &lt;b&gt;
    """
    escaped = _MARKDOWN.sub(r"\\\g<0>", visible(text)).replace("www.", r"www\.")
    return "".join(_HTML.get(letter, letter) for letter in escaped)


def json_text(content: Any) -> str:
    r"""Return indented JSON for a terminal. Letters of all scripts are kept, and invisible characters are escaped.

    >>> print(json_text({"name": "Müller\x9b"}), end="")
    {
      "name": "Müller\u009b"
    }
    """
    lines = json.dumps(content, indent=2, ensure_ascii=False).split("\n")
    return "\n".join("".join(map(_json_letter, line)) for line in lines) + "\n"


def _json_letter(letter: str) -> str:
    return letter if _seen(letter) == letter else json.dumps(letter)[1:-1]
