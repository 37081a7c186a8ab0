"""A night on a Ray of its own, through the command, whose processes are killed from outside."""

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from support.dark_cells import darkness_model, picture
from support.forks.commands import ForkedPopen
from support.forks.workers import started_by

from spermseg.storage.filesystem import Location
from spermseg.table.results import list_units
from spermseg.table.verify import verify

PICTURES = 24
KILLED = "gcs_server"
PROGRAM = """
from functools import partial
from spermseg.cli import main, segment
segment.Night = partial(segment.Night, unit_micrographs=1)
main()
"""


@pytest.mark.ray
def test_a_night_whose_ray_is_killed_ends_in_one_line_and_the_same_command_goes_on(
    tmp_path, kept_cluster, python_that_forks
):
    for number in range(PICTURES):
        path = tmp_path / f"uploads/patient-{number % 3}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number % 9, height=1000 + number, width=900))
    (tmp_path / "model.safetensors").write_bytes(darkness_model())
    out = Location(str(tmp_path / "results"))
    command = started_by(PROGRAM, python_that_forks)
    night = start(command, tmp_path, out, RAY_ADDRESS="local")
    wait_for_units(out, 2, night)
    rays = psutil.Process(night.pid).children(recursive=True)
    for process in rays:
        if process.name() == KILLED:
            process.kill()
    said = night.communicate(timeout=120)[1]
    assert night.returncode == 1
    line = f"spermseg: Ray on this machine ended: its process {KILLED} was killed, or the machine ran out of memory; "
    assert said.splitlines()[-1] == f"{line}what is written stays, and the same command goes on"
    assert "Traceback" not in said
    psutil.wait_procs(rays, timeout=20)
    assert [process for process in rays if process.is_running()] == []
    again = start(command, tmp_path, out, RAY_ADDRESS=kept_cluster, RAY_AUTH_MODE="disabled")
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said
    assert verify(out) == (PICTURES, [])


def start(command: list[str], folder: Path, out: Location, **environment: str) -> ForkedPopen:
    words = [
        "segment",
        str(folder / "uploads"),
        "--model",
        str(folder / "model.safetensors"),
        "--out",
        out.uri,
        "--engine",
        "torch",
    ]
    return ForkedPopen(
        [*command, *words, "--batch-megapixels", "0.02"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_units(out: Location, least: int, process: ForkedPopen) -> None:
    deadline = time.monotonic() + 200
    while len(list_units(out)) < least:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
