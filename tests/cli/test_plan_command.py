"""`spermseg plan`: what a night will take, in lines for a person."""

import pytest
from support.dark_cells import PLANNED, darkness_model, write_uploads

from spermseg.batch.forecast import Forecast
from spermseg.cli import run_verb
from spermseg.cli.plan import Plan, describe
from spermseg.storage.filesystem import Location


def status_of(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run_verb(Plan, list(words), prog="spermseg plan")
    return int(caught.value.code or 0)


def test_a_night_is_told_and_nothing_is_written(tmp_path, capsys):
    source, model = Location(str(tmp_path / "uploads")), tmp_path / "model.safetensors"
    write_uploads(source)
    model.write_bytes(darkness_model())
    before = {item.uri for item in Location(str(tmp_path)).list()}
    assert status_of(source.uri, "--model", str(model), "--max-megapixels", "1", "--workers", "3") == 0
    said = capsys.readouterr().out
    assert f"{PLANNED}, about " in said
    assert "with 3 workers, a CPU each" in said
    assert "forecast from 16 uploads" in said
    assert {item.uri for item in Location(str(tmp_path)).list()} == before


def test_an_empty_input_and_no_worker_are_one_line(tmp_path, capsys):
    model = tmp_path / "model.safetensors"
    model.write_bytes(darkness_model())
    (tmp_path / "empty").mkdir()
    assert status_of(str(tmp_path / "empty"), "--model", str(model)) == 2
    assert "holds no file" in capsys.readouterr().err
    assert status_of(str(tmp_path / "empty"), "--model", str(model), "--workers", "0") == 2
    assert "1 or more is needed" in capsys.readouterr().err


def test_large_numbers_can_be_read():
    forecast = Forecast(
        uploads=1_000_000, rejected=1200, megapixels=5e6, windows=3e6, cpu_s=4e6, beside_network_s=4e5,
        worker_bytes=2**30, table_bytes=2.5e9,
    )  # fmt: skip
    assert describe(forecast, 10**12, 64).splitlines() == [
        "uploads       1,000,000, about 1,200 of them rejected; 1,000,000 MB",
        "pictures      5,000,000 megapixels, 3,000,000 windows of the network",
        "this machine  17.4 h with 64 workers, a CPU each",
        "1 GPU         at least 55.6 h, with 2 CPUs beside each",
        "4 GPUs        at least 13.9 h, with 2 CPUs beside each",
        "16 GPUs       at least 3.5 h, with 2 CPUs beside each",
        "memory        1.0 GB a worker",
        "table         2,500.0 MB",
    ]
