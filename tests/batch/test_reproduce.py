"""A sample of a table segmented again: what is the same is found the same, and one bit of another mask is found."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.dark_cells import EXPECTED, HALF, night_over, picture, run_in_process, write_uploads

from spermseg.batch import reproduce as deep
from spermseg.batch import run
from spermseg.batch.reproduce import DeepVerifier
from spermseg.cells.measure import decode_mask, encode_mask
from spermseg.cli.verify import Verify
from spermseg.errors import ConfigError, ObjectMissingError, RunError
from spermseg.model.saved import decode_model, encode_model
from spermseg.storage.filesystem import Location
from spermseg.table import plan
from spermseg.table.plan import Plan
from spermseg.table.receipt import list_runs
from spermseg.table.results import encode_unit, list_units, read_unit, results_table
from spermseg.table.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model) -> Path:
    """A finished night, with its uploads and model beside, to copy; units of four."""
    folder = tmp_path_factory.mktemp("night")
    write_uploads(Location(str(folder / "uploads")))
    (folder / "model.safetensors").write_bytes(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", run_in_process)
        run.segment_night(night_in(folder, model), lambda progress: None)
    return folder


def night_in(folder: Path, model: bytes) -> run.Night:
    source, out = Location(str(folder / "uploads")), Location(str(folder / "results"))
    return night_over(source, out, model, model_uri=str(folder / "model.safetensors"))


@pytest.fixture
def table(finished, out) -> Location:
    """The table of the finished night, to spoil; its uploads and model are those of all tests."""
    shutil.copytree(finished / "results", out.path)
    return out


def check(table: Location, size: int = 99, model: Location | None = None):
    verifier = DeepVerifier(table, model, None)
    seen: list[int] = []
    result = verifier.check(verifier.draw(size, seed=0), lambda: seen.append(1))
    assert len(seen) == result.same + result.out_of_reach + len(result.differences)
    return result


def spoil(table: Location, **changes) -> str:
    """Change the first row that has cells, and return its image id."""
    for place in list_units(table):
        rows = read_unit(place).to_pylist()
        for row in rows:
            if row["n_cells"]:
                row |= {name: change(row) for name, change in changes.items()}
                place.write_bytes(encode_unit(results_table(rows)))
                return row["image_id"]
    raise AssertionError


def one_more_pixel(row: dict) -> str:
    mask = decode_mask(row["mask"], (row["height_px"], row["width_px"])).copy()
    mask[-1, -1] ^= True
    return encode_mask(np.asarray(mask))


def test_every_row_of_a_night_is_the_same_again(table):
    result = check(table)
    assert (result.same, result.out_of_reach, result.differences) == (len(EXPECTED), 0, [])


def test_rows_of_jpegs_that_were_decoded_at_a_half_are_the_same_again(tmp_path, model):
    for number in range(1, 7):
        Location(str(tmp_path / "uploads" / f"{number}.jpg")).write_bytes(picture(number, ".jpg"))
    (tmp_path / "model.safetensors").write_bytes(model)
    night = night_in(tmp_path, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", run_in_process)
        run.segment_night(replace(night, settings=replace(night.settings, view=HALF)), lambda progress: None)
    result = check(Location(str(tmp_path / "results")))
    assert (result.same, result.out_of_reach, result.differences) == (6, 0, [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask": one_more_pixel}, "mask"),
        ({"n_cells": lambda row: row["n_cells"] + 1}, "n_cells"),
        ({"n_heads": lambda row: 1}, "n_heads"),
        ({"bits": lambda row: 12}, "bits"),
        ({"cells": lambda row: row["cells"][:-1]}, "cells"),
        ({"cells": lambda row: [row["cells"][0] | {"x": 1000}, *row["cells"][1:]]}, "cells"),
        ({"content_sha256": lambda row: "0" * 64}, "content_sha256"),
        ({"width_px": lambda row: 1, "mask": lambda row: "1"}, "width_px, mask"),
    ],
)
def test_a_row_that_says_otherwise_is_a_difference(table, changes, said):
    image_id = spoil(table, **changes)
    result = check(table)
    assert result.differences == [f"run {next(iter(list_runs(table)))}: image {image_id} differs now in: {said}"]
    assert result.same == len(EXPECTED) - 1


def test_a_row_of_a_version_that_counted_no_heads_is_no_difference():
    row = dict.fromkeys(deep.COMPARED, 1) | {"cells": []}
    assert deep._different(row | {"n_heads": None}, row) == ""
    assert deep._different(row | {"n_heads": 2}, row) == "n_heads"


def test_a_confidence_that_differs_in_rounding_is_none(table):
    def nudged(row: dict) -> list[dict]:
        return [cell | {"confidence": float(np.nextafter(np.float32(cell["confidence"]), 0))} for cell in row["cells"]]

    spoil(table, cells=nudged)
    assert check(table).differences == []


def test_uploads_that_are_gone_or_others_by_now_are_counted_apart(finished, tmp_path, model):
    shutil.copytree(finished / "uploads", tmp_path / "uploads")
    (tmp_path / "model.safetensors").write_bytes(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", run_in_process)
        run.segment_night(night_in(tmp_path, model), lambda progress: None)
    (tmp_path / "uploads/patient-0/0.png").unlink()
    (tmp_path / "uploads/patient-1/1.bmp").write_bytes(picture(3, ".bmp"))
    (tmp_path / "uploads/archive.tar").unlink()
    result = check(Location(str(tmp_path / "results")))
    assert (result.same, result.out_of_reach, result.differences) == (len(EXPECTED) - 4, 4, [])


def test_a_row_that_differs_by_itself_is_compared_once_more_in_its_company(table, monkeypatch):
    """As where a pixel lies at the threshold, and the last bit of its probability hangs on the batch."""
    spoil(table, mask=one_more_pixel)
    segment, companies = DeepVerifier._segmenter, []

    def segmenter_that_heeds_company(self, run_id):
        inner = segment(self, run_id)
        alone = inner.segment

        def segment_unit(unit, fetched):
            rows = alone(unit, fetched)
            if len(unit) > 1:
                companies.append([one.reason for one in fetched])
                for row in rows:
                    if row.get("n_cells"):  # a rejected row has none
                        row["mask"] = one_more_pixel(row)
                        break
            return rows

        inner.segment = segment_unit
        return inner

    monkeypatch.setattr(DeepVerifier, "_segmenter", segmenter_that_heeds_company)
    assert check(table).differences == []
    assert len(companies) == 1


def test_a_sample_is_of_ok_rows_each_as_likely_and_the_seed_decides_it(table):
    verifier = DeepVerifier(table, None, None)
    everything = verifier.draw(99, 0)
    assert len(everything) == len(set(everything)) == len(EXPECTED)
    assert verifier.draw(5, 1) == verifier.draw(5, 1)
    drawn = Counter(one for seed in range(400) for one in verifier.draw(5, seed))
    assert drawn.keys() == set(everything)
    expected = 400 * 5 / len(EXPECTED)
    assert all(expected / 2 < count < expected * 2 for count in drawn.values())


def other_model(model: bytes) -> bytes:
    saved = decode_model(model)
    return encode_model(saved.network.state_dict(), replace(saved.description, recipe="other"))


def test_a_model_that_moved_is_given_and_another_is_refused(table, tmp_path, model):
    moved, other = (Location(str(tmp_path / f"{name}.safetensors")) for name in ("moved", "other"))
    moved.write_bytes(model)
    other.write_bytes(other_model(model))
    assert check(table, 3, moved).same == 3
    with pytest.raises(ConfigError, match=r"got the model \w{64}; no finished run of .* was segmented with it"):
        check(table, 3, other)


def test_a_model_file_that_is_gone_or_another_by_now_is_said(tmp_path, finished, model):
    shutil.copytree(finished / "uploads/patient-0", tmp_path / "uploads")
    file = tmp_path / "model.safetensors"
    file.write_bytes(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", run_in_process)
        run.segment_night(night_in(tmp_path, model), lambda progress: None)
    table = Location(str(tmp_path / "results"))
    file.write_bytes(other_model(model))
    with pytest.raises(ConfigError, match=r"was segmented with the model .*\.safetensors now is .*with --model"):
        check(table)
    file.unlink()
    with pytest.raises(ObjectMissingError):
        check(table)
    run_id = next(iter(list_runs(table)))
    place = RunFolder(table, run_id).plan
    old = {name: text for name, text in Plan(place).metadata.items() if name not in ("settings", "model")}
    place.write_bytes(plan.encode_plan([Plan(place).unit(0)], old)[0])
    with pytest.raises(ConfigError, match="is of a version that noted no settings"):
        check(table)


def test_runs_that_have_not_finished_are_not_sampled(table):
    RunFolder(table, next(iter(list_runs(table)))).receipt.delete()
    with pytest.raises(RunError, match="holds no finished run"):
        DeepVerifier(table, None, None)


def test_the_command_says_what_it_found_and_which_seed_finds_it_again(table, capsys):
    assert Verify(out=table.uri, deep=True, sample=5, seed=7).run() == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "segmented again, seed 7: 5 of 5 the same bit for bit, 0 differences"
    )
    image_id = spoil(table, mask=one_more_pixel)
    assert Verify(out=table.uri, deep=True, sample=99).run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"image {image_id} differs now in: mask" in lines[-2]
    assert re.fullmatch(r"segmented again, seed \d+: 13 of 14 the same bit for bit, 1 difference", lines[-1])
    spoil(table, image_id=lambda row: "0")
    assert Verify(out=table.uri, deep=True).run() == 1
    assert "segmented again" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="got a sample of 0 rows"):
        Verify(out=table.uri, deep=True, sample=0).run()
