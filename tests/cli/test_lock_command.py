"""Two jobs on one table, and jobs that are ended: real processes of `spermseg segment`."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.dark_cells import PLANNED, darkness_model, write_uploads
from support.forks.commands import ForkedPopen
from support.forks.workers import started_by

from spermseg.storage.filesystem import Location
from spermseg.storage.uris import PARTIAL
from spermseg.table.receipt import list_runs, read_receipt
from spermseg.table.results import list_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

IN_STEPS = """
import sys
from support.dark_cells import run_in_process
from spermseg.table import lease_holder as holder
from functools import partial
from spermseg.batch import run
from spermseg.cli import main, segment

def pipeline(job, numbers, workers, on_unit):
    run_in_process(job, numbers[:2], workers, on_unit)
    print("working", flush=True)
    sys.stdin.readline()
    run_in_process(job, numbers[2:], workers, on_unit)

segment.Night = partial(segment.Night, unit_micrographs=4)
holder.LASTS_S = 2.0
run.run_pipeline = pipeline
main()
"""
"""`spermseg` without Ray, which stops after two units until it is told to go on."""
WITH_RAY = "from spermseg.cli import main; main()"
TESTS = str(Path(__file__).parents[1])

Job = ForkedPopen


@pytest.fixture
def start(tmp_path: Path, monkeypatch, python_that_forks) -> Iterator[Callable[..., Job]]:
    """Start `spermseg segment` on a place, and end what is left of it."""
    jobs: list[Job] = []
    model = tmp_path / "model.safetensors"
    model.write_bytes(darkness_model())
    monkeypatch.setenv("PYTHONPATH", TESTS)
    monkeypatch.setenv("RAY_ADDRESS", "local")

    def start_one(place: Location, *more: str, command: Sequence[str] = (sys.executable, "-c", IN_STEPS)) -> Job:
        words = ["segment", place.child("uploads").uri, "--out", place.child("results").uri, "--model", str(model)]
        words += ["--max-megapixels", "1", "--engine", "torch"]
        words += ["--endpoint-url", place.endpoint_url] if place.endpoint_url else []
        command, pipe = [*command, *words, *more], subprocess.PIPE
        jobs.append(ForkedPopen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return jobs[-1]

    yield start_one
    for job in jobs:
        job.kill()
        job.communicate()


def at_work(job: Job) -> Job:
    """Wait until two units are done."""
    assert job.stdout.readline() == "working\n"
    return job


def end(job: Job) -> tuple[int, str, str]:
    """Let a job go on; return its exit status, its output, and the last line of stderr."""
    said, complaints = job.communicate("go on\n", timeout=120)
    return job.returncode, said, (complaints.splitlines() or [""])[-1]


def whole_files(out: Location) -> dict[str, str]:
    """Return the files of a table with their states; a lease that is renewed at this moment is half written."""
    return {item.uri: item.etag for item in out.list() if PARTIAL not in item.uri}


@pytest.mark.parametrize("new_place", ["local", "radosgw"], indirect=True)
def test_the_second_job_exits_with_3_and_a_job_that_was_killed_goes_on_unasked(start, place):
    write_uploads(place.child("uploads"))
    out = place.child("results")
    first = at_work(start(place))
    (run_id,) = list_runs(out)
    done = whole_files(out)
    assert len(list_units(out)) == 2
    status, said, complaint = end(start(place, "--take-over"))
    assert (status, said) == (3, "")
    assert re.search(rf"held by process {first.pid} on .*, since 20.*, which is at work: wait", complaint)
    now = whole_files(out)  # the first is unharmed, and has renewed its lease
    assert now | {out.child("lock.json").uri: ""} == done | {out.child("lock.json").uri: ""}
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start(place)
    said, complaints = second.communicate("go on\n", timeout=120)
    (line,) = [line for line in complaints.splitlines() if "taken over" in line]
    assert f"this table is taken over from process {first.pid} on " in line
    assert line.endswith(": that process no longer runs")
    assert second.returncode == 0
    assert f"run {run_id}: planned {PLANNED}, " in said
    assert list_runs(out) == {run_id: True}
    assert {unit.uri: unit.stat().etag for unit in list_units(out)}.items() >= {
        uri: etag for uri, etag in done.items() if "/unit-" in uri
    }.items()
    assert verify(out) == (PLANNED, [])
    receipt = read_receipt(RunFolder(out, run_id))
    assert receipt["starts"] == 2
    assert receipt["started"] <= receipt["last_started"]
    assert not out.child("lock.json").exists()


@pytest.mark.parametrize(
    ("number", "status", "how"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_job_that_is_asked_to_end_releases_the_table(start, tmp_path, number, status, how):
    place = Location(str(tmp_path / "place"))
    write_uploads(place.child("uploads"))
    job = at_work(start(place))
    job.send_signal(number)
    assert end(job)[::2] == (status, f"spermseg: {how}; what is written stays, and the same command goes on")
    assert not place.child("results", "lock.json").exists()


@pytest.mark.ray
def test_a_job_on_ray_that_is_asked_to_end_releases_the_table(start, tmp_path, python_that_forks):
    place = Location(str(tmp_path / "place"))
    write_uploads(place.child("uploads"))
    job = start(place, command=started_by(WITH_RAY, python_that_forks))
    shown = b""
    while b"segmenting" not in shown and (more := job.stderr.buffer.read1()):
        shown += more
    holder = json.loads(place.child("results", "lock.json").read_bytes())
    assert holder["process"] == job.pid
    assert holder["arguments"][1:3] == ["segment", place.child("uploads").uri]
    job.send_signal(signal.SIGTERM)
    said, complaints = job.communicate(timeout=120)
    assert job.returncode == 143, shown.decode() + complaints + said
    assert not place.child("results", "lock.json").exists()
