"""What strangers wrote is shown for what it is, in a terminal, a spreadsheet, Markdown and JSON."""

import csv
import io
import json
import unicodedata

import jinja2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spermseg.texts import composed, csv_cell, json_text, markdown, read_csv_cell, visible

NAMES = ["Müller, Jörg (2).png", "精子 01.jpg", 'O\'Brien "left"', "x-1=y; z", "क\u094d\u200dष.png", "a\\b~c 50%"]
HOSTILE = ["\x1b[2J", "\x9b31m", "\u202egnp.exe", "a\nb", "a\r\x1b[A", "\u2028", "\udce9", "\ufeff", "\x07", "\u2066x"]
DELIMITERS = (",", ";", "\t")
FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SPREADSHEET_NAMES = st.text(st.sampled_from("a1=+-@;,\t\n\r'\" \uff1d\u00a0é"), max_size=12)


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_as_they_are(name):
    assert visible(name) == name
    assert csv_cell(name) == name
    assert json.loads(json_text(name)) == name
    assert json_text(name).strip() == json.dumps(name, ensure_ascii=False)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_has_no_shape_is_an_escape(text):
    shown = visible(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert "\\" in shown
    assert json_text(text).strip("\n").isprintable()


@given(st.text() | st.text(st.characters(categories=["Cs", "Cc", "Cf"])))
def test_whatever_the_text_it_is_one_line_without_control_characters_that_can_be_written(text):
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    unseen = {letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp")}
    assert unseen <= {"\u200c", "\u200d"}


def written(*rows: list[str], quoting: int) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@given(names=st.lists(SPREADSHEET_NAMES, min_size=1, max_size=4))
@example(names=["a", ';"=1'])
@example(names=["a;\t =1", "-2+3"])
@example(names=['" =1'])
def test_no_reader_finds_a_formula_in_a_cell_whatever_separates_its_cells(quoting, names):
    table = written([csv_cell(name) for name in names], quoting=quoting)
    for delimiter in DELIMITERS:
        for row in csv.reader(io.StringIO(table, newline=""), delimiter=delimiter):
            assert not any(cell.strip(' \u00a0\t\r\n"').startswith(FORMULAS) for cell in row), (table, row)
    (cells,) = csv.reader(io.StringIO(table, newline=""))
    assert [read_csv_cell(cell) for cell in cells] == [visible(name) for name in names]


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "[x](javascript:alert(1))",
        "<img src=x onerror=alert(1)>",
        "![x](http://a.b/c.png)",
        "`code`",
        "a\n\n# heading",
        "https://evil.example",
        "www.evil.example",
        "x@evil.example",
        "&lt;b&gt;",
        "**bold** _x_ ~~y~~",
    ],
)
def test_markdown_holds_no_markup_of_a_name(text):
    shown = markdown(text)
    plain = shown
    for mark in "\\`*_[]|~!#@:":
        plain = plain.replace(f"\\{mark}", "")
    assert not set(plain) & set("`*_[]|~!#@:<>\n"), plain
    assert "www." not in plain


def test_a_name_is_the_same_however_its_letters_are_composed():
    assert composed(unicodedata.normalize("NFD", "Müller-Ångström")) == "Müller-Ångström"


def test_a_template_escapes_after_what_cannot_be_seen_is_made_visible():
    environment = jinja2.Environment(autoescape=True, finalize=lambda value: visible(value))
    assert environment.from_string("{{ name }}").render(name="<b>\u202e") == "&lt;b&gt;\\u202e"
