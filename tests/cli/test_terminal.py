"""What a verb says is lines that no name can break or colour."""

import ast
import importlib
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docstring_parser import parse_from_object

import spermseg.cli
from spermseg.cli import VERBS, main, run_verb
from spermseg.cli.terminal import OneLine, prepare_terminal, say
from spermseg.cli.verify import Verify
from spermseg.errors import RunError

NAME = "Müller\x1b[2J\u202egnp\n精子\udce9.png"
SHOWN = "Müller\\x1b[2J\\u202egnp\\n精子\\udce9.png"


def test_whatever_is_said_is_one_line_each(capsys):
    say(NAME, "second")
    say(NAME, to=sys.stderr)
    said = capsys.readouterr()
    assert said.out == f"{SHOWN}\nsecond\n"
    assert said.err == f"{SHOWN}\n"


def test_an_error_is_one_line(tmp_path, monkeypatch, capsys):
    def fail(self):
        raise RunError(f"{NAME} is damaged")

    monkeypatch.setattr(Verify, "run", fail)
    with pytest.raises(SystemExit):
        run_verb(Verify, [str(tmp_path)])
    assert capsys.readouterr().err == f"spermseg: {SHOWN} is damaged\n"


@pytest.mark.parametrize("words", [[], ["results"], ["results", "--patience"], ["results", "--deep="]])
@pytest.mark.parametrize(
    "hostile", ["\x1b[2J\x1b[31mred", "--\x1b]0;title\x07", "a\nspermseg: verified", "\u202egnp.exe"]
)
def test_words_that_the_parser_does_not_take_are_shown_as_letters(words, hostile, capfd, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as ended:
        run_verb(Verify, [*words, *([] if words else ["results"]), hostile, "--unknown", hostile])
    said = "".join(capfd.readouterr())
    assert ended.value.code == 2
    assert said.replace("\n", "").isprintable()
    assert "\nspermseg: verified" not in said


def test_a_verb_that_is_none_is_shown_as_letters(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["spermseg", "--\x1b[31mred"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = "".join(capfd.readouterr())
    assert ended.value.code == 2
    assert said.replace("\n", "").isprintable()


def test_a_place_may_have_a_name_of_which_no_letter_is_shown(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(Verify, "run", lambda self: given.append(self.out) or 0)
    with pytest.raises(SystemExit) as ended:
        run_verb(Verify, [f"{tmp_path}/a\x1b[31m"])
    assert ended.value.code == 0
    assert given == [f"{tmp_path}/a\x1b[31m"]


def test_a_place_whose_name_is_no_text_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_verb(Verify, [f"{tmp_path}/M\udcfcller"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"spermseg: got {tmp_path}/M\\udcfcller, a name that is not UTF-8")


def test_a_warning_is_one_line():
    record = logging.LogRecord("spermseg", logging.WARNING, "", 0, "%s is left out", (NAME,), None)
    assert OneLine("%(levelname)s %(name)s: %(message)s").format(record) == f"WARNING spermseg: {SHOWN} is left out"


def test_a_terminal_that_does_not_know_a_letter_is_told_its_number(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="latin-1"))
    prepare_terminal()
    say("Müller 精子")
    assert shown.getvalue() == "Müller \\u7cbe\\u5b50\n".encode("latin-1")


def test_no_verb_prints_but_by_say():
    folder = Path(spermseg.cli.__file__).parent
    for path in folder.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints or path.name == "terminal.py", f"{path.name}: {prints}"


def test_help_comes_without_what_takes_long_to_import():
    code = "import sys, spermseg.cli; print(*{'torch', 'pyarrow', 'ray', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_what_a_verb_leaves_by_any_library_is_its_owners_alone_and_the_umask_is_as_before(tmp_path, monkeypatch):
    def write(self):
        (tmp_path / "file").write_text("x")
        return 0

    monkeypatch.setattr(Verify, "run", write)
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit):
            run_verb(Verify, [str(tmp_path)])
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_each_argument_as_one_paragraph_without_python_values(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        run_verb(verb, ["--help"])
    text = capsys.readouterr().out
    assert "--" in text
    assert not re.findall(r"\{None|default: (?:None)?\)", text)
    for argument in parse_from_object(_class_of(verb)).params:
        assert " ".join(argument.description.split()) in text


def _class_of(verb):
    return getattr(importlib.import_module(f"spermseg.cli.{verb}"), verb.capitalize())
