"""`spermseg segment`, `verify` and `report` as they are typed."""

import re
import shutil
import subprocess
import time
from html import escape
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from support.dark_cells import EXPECTED, PLANNED, REASONS, darkness_model, picture, tar_of, write_uploads
from support.forks.workers import started_by

from spermseg.batch.profile import Profile
from spermseg.batch.run import Progress
from spermseg.batch.worker.timing import Spent
from spermseg.cli import run_verb
from spermseg.cli.export import Export
from spermseg.cli.report import Report
from spermseg.cli.segment import ProgressBar, Segment, _print_receipt
from spermseg.cli.verify import Verify
from spermseg.errors import (
    ConfigError,
    LockedError,
    ObjectDeniedError,
    ObjectMissingError,
    RunError,
    StorageError,
    StorageRefusedError,
)
from spermseg.storage.filesystem import Location
from spermseg.table.receipt import list_runs, read_receipt, store_receipt
from spermseg.table.results import MEND, read_units
from spermseg.table.run_folder import RunFolder

PROGRAM = "from spermseg.cli import main; main()"
SUMMARY = (
    f"planned {PLANNED}, ok {len(EXPECTED)}, rejected {len(REASONS)}; {sum(EXPECTED.values())} cells in 0.2 megapixels"
)
HOSTILE = "<script>alert(1)</script>&.png"


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(darkness_model())
    return path


def words(source: Location, model: Path | str, out: Location, *more: str) -> list[str]:
    return [source.uri, "--model", str(model), "--out", out.uri, "--max-megapixels", "1", "--engine", "torch", *more]


def status_of(verb: type, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run_verb(verb, list(arguments))
    return ended.value.code


def lines_shown(bar: str) -> list[str]:
    """Return what a terminal would have shown of a progress bar, a line a refresh."""
    return [line for line in re.split(r"[\r\n]", bar) if line.strip()]


@pytest.mark.ray
def test_the_terminal_shows_one_bar_and_the_summary_and_nothing_else(
    uploads, model, tmp_path, monkeypatch, python_that_forks
):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    out = Location(str(tmp_path / "results"))
    command = [
        *started_by(PROGRAM, python_that_forks),
        "segment",
        *words(uploads, model, out, "--workers", "1", "--engine", "auto"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    summary, *reasons, last = done.stdout.splitlines()
    assert re.fullmatch(rf"run \d{{8}}T\d{{6}}Z-\w{{6}}: {SUMMARY}, \d+ s", summary)
    assert all(re.fullmatch(r" +1  \S.*", line) for line in reasons)
    assert len(reasons) == len(REASONS)
    assert last == f"table: {out.uri}/results; next: spermseg verify, spermseg report"
    shown = lines_shown(done.stderr)
    assert all(line.startswith("segmenting: ") for line in shown), done.stderr
    assert f"{PLANNED}/{PLANNED}" in shown[-1]
    assert f"Mpx/s, {len(REASONS)} rejected]" in shown[-1]


@pytest.mark.usefixtures("without_ray")
def test_a_second_night_without_new_uploads_says_so_and_plans_nothing(uploads, model, tmp_path, capsys):
    out = Location(str(tmp_path / "results"))
    assert status_of(Segment, *words(uploads, model, out)) == 0
    assert SUMMARY in capsys.readouterr().out
    assert status_of(Segment, *words(uploads, model, out)) == 0
    said = capsys.readouterr()
    assert said.out == f"nothing to do: every upload of {uploads.uri} has its row in {out.uri}; planned 0\n"
    assert not said.err
    assert status_of(Verify, out.uri) == 0


@pytest.mark.usefixtures("without_ray")
def test_the_settings_of_the_command_decide_the_rows(uploads, model, tmp_path):
    out = Location(str(tmp_path / "results"))
    assert status_of(Segment, *words(uploads, model, out, "--um-per-px", "0.5", "--min-area", "300")) == 0
    cells = [cell for table in read_units(out) for row in table.to_pylist() for cell in row["cells"] or ()]
    assert cells
    assert all(cell["area"] >= 300 and cell["area_um2"] == cell["area"] / 4 for cell in cells)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["UPLOADS", "--model", "MISSING", "--out", "OUT"], "missing.safetensors is not there"),
        (["UPLOADS", "--model", "DAMAGED", "--out", "OUT"], "damaged.safetensors is not a model file or is damaged"),
        (["MISSING", "--model", "MODEL", "--out", "OUT"], "missing.safetensors, which holds no file"),
        (["UPLOADS", "--model", "MODEL", "--out", "UPLOADS/results"], "one inside the other"),
        (["UPLOADS/patient-0", "--model", "MODEL", "--out", "UPLOADS"], "one inside the other"),
        (["UPLOADS", "--model", "MODEL", "--out", "MODEL"], "could not be made: File exists"),
        (["UPLOADS", "--model", "MODEL", "--out", "MODEL/results"], "could not be made: Not a directory"),
        (["UPLOADS", "--model", "MODEL", "--out", "s3://No_Bucket !/results"], "is no name that S3 knows"),
        (["UPLOADS", "--model", "MODEL", "--out", "ftp://clinic"], "spermseg reads folders, file:///folder and s3://"),
        (["UPLOADS", "--model", "MODEL", "--out", "OUT", "--threshold", "1.5"], "got threshold 1.5"),
        (["UPLOADS", "--model", "MODEL", "--out", "OUT", "--max-megapixels", "0"], "more than 0 is needed"),
        (["UPLOADS", "--model", "MODEL", "--out", "OUT", "--workers", "0"], "1 or more is needed"),
        (["UPLOADS", "--model", "MODEL", "--out", "OUT", "--max-rejected", "half"], "such as 20%, or a count such as"),
        (["UPLOADS", "--model", "MODEL", "--out", "OUT", "--max-rejected", "101%"], "a share of 0% to 100%"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_2(uploads, model, tmp_path, capsys, arguments, said):
    (tmp_path / "damaged.safetensors").write_bytes(darkness_model()[:-10])
    places = {
        "UPLOADS": uploads.uri,
        "MODEL": str(model),
        "MISSING": str(tmp_path / "missing.safetensors"),
        "DAMAGED": str(tmp_path / "damaged.safetensors"),
        "OUT": str(tmp_path / "results"),
    }
    for name, place in places.items():
        arguments = [word.replace(name, place) for word in arguments]
    assert status_of(Segment, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spermseg: ")
    assert said in line
    assert not list(Location(places["OUT"]).list())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageError("s3://clinic could not be listed: the server is down"), 1),
        (RunError("the run stopped"), 1),
        (ObjectDeniedError("s3://clinic may not be listed"), 2),
        (ObjectMissingError("s3://clinic is not there"), 2),
        (StorageRefusedError("s3://clinic: there is no such bucket"), 2),
        (ConfigError("got 0 workers"), 2),
        (LockedError("another job came first"), 3),
    ],
)
def test_what_passes_by_itself_has_another_status_than_what_is_to_be_mended(
    uploads, model, tmp_path, monkeypatch, capsys, error, status
):
    def fail(*_):
        raise error

    monkeypatch.setattr("spermseg.cli.segment.segment_night", fail)
    assert status_of(Segment, *words(uploads, model, Location(str(tmp_path / "results")))) == status
    assert capsys.readouterr().err == f"spermseg: {error.message}\n"


def test_a_run_that_stops_is_one_line_and_status_1(uploads, model, tmp_path, capsys):
    out = Location(str(tmp_path / "results"))
    assert status_of(Segment, *words(uploads, model, out, "--address", "127.0.0.1:1")) == 1
    assert lines_shown(capsys.readouterr().err)[-1].startswith("spermseg: Ray does not answer at 127.0.0.1:1: ")


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("limit", "status"), [("36%", 4), ("37%", 0), (f"{len(REASONS) - 1}", 4), (f"{len(REASONS)}", 0)]
)
def test_a_run_that_rejects_more_than_it_may_has_its_rows_and_receipt_and_ends_with_status_4(
    uploads, model, tmp_path, capsys, limit, status
):
    out = Location(str(tmp_path / "results"))
    command = words(uploads, model, out, "--max-rejected", limit)
    assert status_of(Segment, *command) == status
    said = capsys.readouterr()
    assert SUMMARY in said.out
    last = lines_shown(said.err)[-1]
    if status:
        assert f" rejected {len(REASONS)} of {PLANNED}, more than the limit of {limit}: 1 x " in last
        assert "; all rows are written; mend the cause, then --retry-rejected tries these again" in last
    assert last.startswith("spermseg: run ") == bool(status)
    assert status_of(Verify, out.uri) == 0
    assert status_of(Segment, *command) == 0  # a later night has nothing to do


@pytest.mark.usefixtures("without_ray")
def test_rejected_uploads_are_tried_again_and_reported_once(uploads, model, tmp_path, capsys):
    out = Location(str(tmp_path / "results"))
    command = words(uploads, model, out)
    assert status_of(Segment, *command) == 0
    assert status_of(Segment, *command, "--retry-rejected", "--max-rejected", "100%") == 0
    assert f"planned {len(REASONS)}, ok 0, rejected {len(REASONS)}" in capsys.readouterr().out
    assert status_of(Verify, out.uri) == 0
    assert status_of(Report, out.uri) == 0
    assert status_of(Export, out.uri, "--to", str(tmp_path / "table.csv")) == 0
    assert f"table.csv, {PLANNED} micrographs" in capsys.readouterr().out
    page = Path(out.path, "report.html").read_text()
    assert "its receipt says" not in page
    shutil.rmtree(uploads.child("broken").path)
    uploads.child("courier.zip").delete()
    assert status_of(Segment, *command, "--retry-rejected") == 0
    assert capsys.readouterr().out == (
        f"nothing to do: no upload of {uploads.uri} has a rejected row in {out.uri}; planned 0\n"
    )


@pytest.mark.usefixtures("without_ray")
def test_a_table_is_exported_with_finished_runs_only_where_asked(uploads, model, tmp_path, capsys):
    out, target = Location(str(tmp_path / "results")), tmp_path / "table.csv"
    assert status_of(Segment, *words(uploads, model, out)) == 0
    assert status_of(Export, out.uri, "--to", str(tmp_path / "cells.parquet"), "--cells") == 0
    cells = pq.read_table(tmp_path / "cells.parquet")
    assert len(cells) == sum(EXPECTED.values())
    assert cells.schema.field("area").metadata[b"unit"] == b"px"
    assert set(cells["cell"].to_pylist()) == set(range(max(EXPECTED.values())))
    next(Path(out.path).glob("runs/*/receipt.json")).unlink()
    lines = []
    for more in ([], ["--finished"]):
        assert status_of(Export, out.uri, "--to", str(target), *more) == 0
        lines.append(len(target.read_text().splitlines()))
    assert lines == [PLANNED + 1, 1]
    assert status_of(Report, out.uri, "--finished") == 0
    assert "broken/empty.jpg" not in Path(out.path, "report.html").read_text()
    assert status_of(Export, out.uri, "--to", out.child("results", "table.parquet").uri) == 2
    assert "which is inside the table" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [Verify, Report])
def test_a_folder_without_a_run_is_one_line_and_status_1(verb, tmp_path, capsys):
    assert status_of(verb, str(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no run; a folder that `spermseg segment` wrote to is needed" in line


@pytest.mark.parametrize("verb", [Segment, Verify, Report, Export])
def test_the_help_shows_an_example_and_explains_every_option(verb, capsys):
    assert status_of(verb, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Example: spermseg {verb.__name__.lower()} " in said
    for name in verb.__dataclass_fields__:
        assert name.replace("_", "-") in said or name in ("source", "out")


def test_a_bar_of_a_continued_run_starts_where_it_was_and_counts_its_own_speed(capsys):
    nothing, segmented = Profile(decode_threads=2), Profile(decode_threads=2, spent=Spent(megapixels=1.0))
    progress = Progress(run_id="a", planned=40, done=30, rejected=2, profile=nothing)
    with ProgressBar() as bar:
        bar.show(progress)
        time.sleep(0.25)
        bar.show(Progress(run_id="a", planned=40, done=35, rejected=3, profile=segmented))
        bar.show(Progress(run_id="b", planned=7, done=0, rejected=0, profile=nothing))
    shown = lines_shown(capsys.readouterr().err)
    assert "30/40" in shown[0]
    later = next(line for line in shown if "35/40" in line and "3 rejected" in line)
    found = re.search(r"<(\d\d:\d\d), +([0-9.]+)(picture/s|s/picture), ([0-9.]+) Mpx/s, 3 rejected\]", later)
    assert found, later
    speed = float(found[2]) if found[3] == "picture/s" else 1 / float(found[2])
    assert 0 < speed <= 5 / 0.25  # 35 / 0.25, were the pictures of the earlier start counted
    assert 0 < float(found[4]) <= 1 / 0.25
    assert "0/7" in shown[-1]


def test_a_long_listing_is_shown_by_a_bar_of_its_own_and_a_short_one_is_not(capsys, monkeypatch):
    with ProgressBar() as bar:
        bar.show_listed(1000)
        bar.show_listed(1017)
    assert not capsys.readouterr().err
    monkeypatch.setattr("spermseg.cli.segment.SHOW_LISTING_AFTER_S", 0)
    with ProgressBar() as bar:
        bar.show(Progress(run_id="unfinished", planned=5, done=5, rejected=0, profile=Profile(decode_threads=2)))
        bar.show_listed(1000)
        bar.show_listed(2017)
        bar.show(Progress(run_id="new", planned=7, done=0, rejected=0, profile=Profile(decode_threads=2)))
    shown = lines_shown(capsys.readouterr().err)
    assert [line.split(":")[0] for line in (shown[0], shown[-1])] == ["segmenting", "segmenting"]
    assert [line for line in shown if line.startswith("listing: 2.02kupload ")]


@pytest.mark.usefixtures("without_ray")
def test_the_report_escapes_names_and_survives_uploads_that_are_gone(uploads, model, tmp_path, capsys):
    uploads.child("patient-0", HOSTILE).write_bytes(picture(8))
    out = Location(str(tmp_path / "results"))
    assert status_of(Segment, *words(uploads, model, out)) == 0
    Path(uploads.child("courier.zip").path).unlink()
    Path(uploads.child("patient-2/5.bmp").path).unlink()
    uploads.child("archive.tar").write_bytes(tar_of([("patient-8/b.png", picture(1))]))
    assert status_of(Report, out.uri) == 0
    assert capsys.readouterr().out.endswith(f"report: {out.uri}/report.html\n")
    page = Path(out.path, "report.html").read_text()
    assert HOSTILE not in page
    assert escape(HOSTILE) in page
    assert "5.bmp is not there" in page
    assert "courier.zip is not there" in page
    assert "archive.tar no longer holds" in page
    assert page.count("data:image/jpeg;base64,") >= 3


@pytest.mark.usefixtures("without_ray")
def test_segment_verify_and_report_work_on_s3(moto_server, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bucket = moto_server.new_bucket()
    uploads, out = bucket.child("uploads"), bucket.child("results")
    write_uploads(uploads)
    bucket.child("model.safetensors").write_bytes(darkness_model())
    server = ("--endpoint-url", moto_server.endpoint_url)
    assert status_of(Segment, *words(uploads, bucket.child("model.safetensors").uri, out, *server)) == 0
    assert status_of(Verify, out.uri, *server) == 0
    assert status_of(Report, out.uri, *server) == 0
    assert status_of(Report, out.uri, *server, "--html", bucket.child("report.html").uri) == 0
    assert status_of(Export, out.uri, *server, "--to", bucket.child("table.csv").uri) == 0
    assert status_of(Verify, out.uri, *server, "--deep", "--sample", "3") == 0
    assert len(bucket.child("table.csv").read_bytes().splitlines()) == PLANNED + 1
    assert f"verified: {PLANNED} rows" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert bucket.child("report.html").read_bytes().decode().count("base64,") == page.count("base64,")


@pytest.mark.usefixtures("without_ray")
def test_a_spoiled_table_is_verified_with_status_1_and_mended_by_the_command_it_names(uploads, model, tmp_path, capsys):
    out = Location(str(tmp_path / "results"))
    assert status_of(Segment, *words(uploads, model, out)) == 0
    (run_id,) = list_runs(out)
    store_receipt(RunFolder(out, run_id), {**(read_receipt(RunFolder(out, run_id)) or {}), "ok": 1})
    capsys.readouterr()
    assert status_of(Verify, out.uri) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"run {run_id}: the receipt says ok 1, the files say {len(EXPECTED)}",
        f"{PLANNED} rows, 1 difference; {MEND}",
    ]
    assert status_of(Segment, *words(uploads, model, out), "--check-files") == 0
    assert status_of(Verify, out.uri) == 0


@pytest.mark.parametrize(("heads", "said"), [(None, "rejected 0; 9 cells in"), (7, "rejected 0; 7 heads, 9 cells in")])
def test_the_last_line_says_how_many_heads_there_are_where_they_were_counted(capsys, heads, said):
    figures = {"run_id": "night", "planned": 1, "ok": 1, "rejected": 0, "reasons": {}, "megapixels": 1.0}
    _print_receipt(SimpleNamespace(**figures, cells=9, heads=heads, duration_s=1.0, forecast=None, passed_over={}))
    assert said in capsys.readouterr().out
