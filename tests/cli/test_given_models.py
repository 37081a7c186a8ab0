"""A damaged or hostile model is refused, by each verb that is given one, before what takes seconds is imported."""

import dataclasses
import importlib
import json
import subprocess
import sys

import pytest
from support.dark_cells import darkness_model

from spermseg.cli import MODEL_VERBS, VERBS
from spermseg.cli.arguments.models import check_given_models
from spermseg.errors import ModelFileError, ObjectMissingError
from spermseg.storage import patience

WITH_IMPORTS = """
import atexit, sys
from spermseg.cli import main
atexit.register(lambda: print(*sorted({"torch", "ray", "pandas", "albumentations"} & set(sys.modules))))
main()
"""
COMMANDS = {
    "segment": ["uploads", "--out", "results", "--max-rejected", "5%", "--model", "MODEL", "--no-forecast"],
    "plan": ["uploads", "--model=MODEL"],
    "preview": ["slide.png", "--out", "preview", "--model", "MODEL"],
    "evaluate": ["--model", "MODEL", "--dataset", "dataset", "--out", "evaluation"],
    "calibrate": ["--dataset", "dataset", "--out", "fitted.safetensors", "--model", "MODEL"],
    "verify": ["results", "--deep", "--model", "MODEL"],
    "train": ["--dataset", "dataset", "--out", "run", "--filters", "3", "4", "--init", "MODEL"],
}


def damaged() -> bytes:
    data = bytearray(darkness_model())
    data[-1] ^= 1
    return bytes(data)


DEEP = json.dumps({"__metadata__": {"spermseg": "[" * 10**5}}).encode()
HOSTILE = {
    "damaged": damaged(),
    "cut off": darkness_model()[:-1],
    "a pickle": b"\x80\x04\x95\x00\x00",
    "a long header": (2**40).to_bytes(8, "little") + b"{}",
    "a deep description": len(DEEP).to_bytes(8, "little") + DEEP,
    "empty": b"",
}


@pytest.mark.parametrize("verb", sorted(MODEL_VERBS))
def test_a_damaged_model_is_one_line_and_neither_torch_nor_ray_is_imported_for_it(verb, tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(damaged())
    words = [word.replace("MODEL", str(model)) for word in COMMANDS[verb]]
    code = [sys.executable, "-c", WITH_IMPORTS, verb, *words]
    done = subprocess.run(code, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == f"spermseg: {model} is damaged: its content does not fit its digest; copy it again\n"
    assert done.stdout == "\n"


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("option", ["--model", "--init", "--ignore-loose", "--ignore_loose"])
def test_whatever_is_wrong_with_a_model_is_found_by_whichever_option_names_it(data, option, tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        check_given_models(["uploads", "--out", "results", option, str(model), "--workers", "2"])


def test_a_model_that_is_not_there_is_told_and_a_whole_one_is_not(tmp_path):
    model = tmp_path / "model.safetensors"
    with pytest.raises(ObjectMissingError):
        check_given_models(["--model", str(model)])
    model.write_bytes(darkness_model())
    check_given_models(["--model", str(model), "--patience", "1"])
    assert patience.patience().total_s == 60


@pytest.mark.parametrize(
    "words",
    [["--init", "pretrained"], ["--init", "scratch"], ["--model", "no-file", "--help"], ["uploads", "--model"], []],
)
def test_words_that_name_no_file_and_those_that_cannot_be_read_are_left_to_the_verb(words, capfd):
    check_given_models(words)
    assert capfd.readouterr() == ("", "")


def test_each_verb_that_is_given_a_model_is_known():
    classes = {verb: getattr(importlib.import_module(f"spermseg.cli.{verb}"), verb.capitalize()) for verb in VERBS}
    options = {verb: {field.name for field in dataclasses.fields(its)} for verb, its in classes.items()}
    with_models = {verb for verb, its in options.items() if its & {"model", "init", "ignore_loose"}}
    assert with_models == MODEL_VERBS == set(COMMANDS)
