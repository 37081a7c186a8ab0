"""The guides: every command is one that the program takes, every snippet runs, every link leads somewhere."""

import doctest
import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from spermseg.cells.measure import encode_mask
from spermseg.cli import VERBS
from spermseg.synthetic.draw import DrawConfig, draw_micrograph
from spermseg.table.results import OK, REJECTED, encode_unit, results_table

ROOT = Path(__file__).parents[1]
GUIDES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
MASK = np.eye(4, 6, dtype=bool)


def blocks(guide: Path, language: str) -> list[str]:
    """Return the code blocks of a guide in one language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", guide.read_text(), re.MULTILINE | re.DOTALL)


def commands(guide: Path) -> list[list[str]]:
    """Return the words of every command line of a guide that runs one of our verbs, from the verb on."""
    lines = "\n".join(blocks(guide, "sh")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    found = []
    for line in words:
        for number, word in enumerate(line):
            script = re.fullmatch(r"jobs/(\w+)\.py", word)
            if script:
                found.append([script[1], *line[number + 1 :]])
            elif word == "spermseg" and line[number + 1] in VERBS:
                found.append(line[number + 1 :])
    return found


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if commands(guide)], ids=lambda guide: guide.name)
def test_every_command_of_a_guide_is_one_that_the_program_takes(guide: Path) -> None:
    for verb, *arguments in commands(guide):
        kind = getattr(importlib.import_module(f"spermseg.cli.{verb}"), verb.capitalize())
        assert isinstance(tyro.cli(kind, args=arguments), kind)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_every_link_of_a_guide_leads_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", guide.read_text()):
        assert (guide.parent / target).exists(), target


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_every_file_that_a_guide_names_is_there(guide: Path) -> None:
    rooms = [ROOT / room for room in ("spermseg", "tests", "benchmarks", "jobs", "examples")]
    there = [path.as_posix() for room in rooms for path in room.rglob("*.py")]
    for name in re.findall(r"`([a-z_0-9/]+\.py)`", guide.read_text()):
        assert any(path.endswith(f"/{name}") for path in there), name


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small table in `results`, with a mix-up, a reject and a finished run, seen from the folder beside it."""
    cell = {"x": 0, "y": 0, "width": 6, "height": 4, "area": 4, "confidence": 0.9, "mask": encode_mask(MASK)}
    seen = {"status": OK, "height_px": 4, "width_px": 6, "focus": 2.0, "mask": encode_mask(MASK), "content_sha256": "c"}
    rows = [
        {
            "image_id": "1",
            "group": "ada",
            **seen,
            "n_cells": 3,
            "n_heads": 1,
            "cells": [cell],
            "foreground_fraction": 0.2,
        },
        {"image_id": "2", "group": "eve", **seen, "n_cells": 0, "cells": [], "foreground_fraction": 0.0},
        {"image_id": "3", "group": "eve", "status": REJECTED, "reason": "the file is empty"},
    ]
    constants = {"uri": "a.jpg", "run_id": "night", "model_sha256": "m", "recipe_sha256": "r", "version": "1"}
    unit = tmp_path / "results/results/run=night/unit-1.parquet"
    unit.parent.mkdir(parents=True)
    unit.write_bytes(encode_unit(results_table([constants | row for row in rows[:2]])))
    before = unit.with_name("unit-0.parquet")  # of before schema version 5, and the first that is found
    before.write_bytes(encode_unit(results_table([constants | rows[2]]).drop_columns(["n_heads"])))
    receipt = tmp_path / "results/runs/night/receipt.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text(json.dumps({"run_id": "night"}))
    monkeypatch.chdir(tmp_path)


def test_every_query_of_the_guide_finds_what_it_is_to_find(table: None) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB reads the table from outside; it is not needed to write it")
    queries = [query for block in blocks(ROOT / "docs/operations.md", "sql") for query in block.split(";")]
    answers = [duckdb.sql(query).fetchall() for query in queries if query.strip()]
    patients, rejects, mix_ups, blurred, cells, finished, rejected, current = answers
    assert patients == [("ada", 1, 1, pytest.approx(0.2)), ("eve", 1, 0, 0.0)]
    assert rejects == [("the file is empty", 1)]
    assert [sorted(groups) for _, groups, _ in mix_ups] == [["ada", "eve"]]
    assert [row[-1] for row in blurred] == [1.0, 1.0]
    assert len(cells) == 1
    assert finished == [(3,)]
    assert rejected == [("a.jpg", None, "the file is empty")]
    assert len(current) == 3


def test_the_python_of_the_guide_reads_the_table(table: None, capsys: pytest.CaptureFixture[str]) -> None:
    local = [block for block in blocks(ROOT / "docs/operations.md", "python") if "s3://" not in block]
    names: dict[str, object] = {}
    for block in local:
        exec(block, names)
    assert "ada    1.0" in capsys.readouterr().out
    assert np.array_equal(names["mask"], MASK)  # type: ignore[arg-type]


def test_what_the_readme_shows_of_the_library_is_what_it_gives(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_micrograph(1, DrawConfig()).pixels).save("slide.jpg", quality=92)
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert (found.failed, found.attempted) == (0, 5)


def test_the_python_of_the_readme_reads_the_table(table: None, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(ROOT / "README.md", "python"):
        exec(block, {})
    said = capsys.readouterr().out
    assert "ada" in said
    assert said.endswith("3\n")
