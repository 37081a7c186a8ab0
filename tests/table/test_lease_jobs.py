"""Jobs that want the same table, each a process of its own, on each kind of storage."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from support.held_tables import foreign, holder_of

from spermseg.storage.filesystem import Location

BRIEFLY_S = 1.0
"""How long a lease of these tests lasts, where real processes wait for it."""
HOLD = """
import sys
uri, server, take_over, boot, lasts_s = sys.argv[1:]
from spermseg.table import lease_holder as holder
from spermseg.table.lease import hold_lease
from spermseg.errors import LockedError
from spermseg.storage.filesystem import Location
holder.LASTS_S = float(lasts_s)
if boot:
    holder._boot = lambda: boot
sys.stdin.readline()  # all at once
try:
    with hold_lease(Location(uri, server or None), ["segment"], take_over=take_over == "yes") as lease:
        print("mine", flush=True)
        sys.stdin.readline()
        lease.check()
except LockedError as error:
    print(error.message, flush=True)
    sys.exit(3)
"""
"""A job: it waits for a line, takes the lease, says so, waits for another line, and ends."""


@pytest.fixture
def start(place: Location):
    """Start jobs on `place`, each a process of its own, and end those that are left."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*, take_over: bool = False, boot: str = "", lasts_s: float = BRIEFLY_S) -> subprocess.Popen[str]:
        words = [place.uri, place.endpoint_url or "", "yes" if take_over else "no", boot, str(lasts_s)]
        command, pipe = [sys.executable, "-c", HOLD, *words], subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start_one
    for job in started:
        job.kill()
        job.wait()
        for pipe in (job.stdin, job.stdout, job.stderr):
            pipe.close()


def go(jobs: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Let jobs go all at once, and return what each says."""
    for job in jobs:
        tell(job)
    return [job.stdout.readline().strip() for job in jobs]


def tell(job: subprocess.Popen[str]) -> None:
    job.stdin.write("go\n")
    job.stdin.flush()


def end(job: subprocess.Popen[str]) -> int:
    tell(job)
    return job.wait(30)


Start = Callable[..., subprocess.Popen[str]]


def test_of_jobs_that_start_at_the_same_moment_one_gets_the_lease_and_is_unharmed(start: Start, place):
    jobs = [start() for _ in range(4)]
    said = go(jobs)
    (winner,) = [job for job, line in zip(jobs, said, strict=True) if line == "mine"]
    assert holder_of(place)["process"] == winner.pid
    for job, line in zip(jobs, said, strict=True):
        if job is not winner:
            assert f"this table is held by process {winner.pid} on " in line
            assert "which is at work: wait until it has ended, or end it" in line
            assert job.wait(30) == 3
    assert holder_of(place)["process"] == winner.pid
    assert end(winner) == 0
    assert not list(place.list())


def take_over(killed: subprocess.Popen[str], start: Start) -> subprocess.Popen[str]:
    """Kill the holder; of three jobs that start then, return the one that has the lease, the others being refused."""
    assert go([killed]) == ["mine"]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    jobs = [start() for _ in range(3)]
    said = go(jobs)
    (winner,) = [job for job, line in zip(jobs, said, strict=True) if line == "mine"]
    assert [job.wait(30) for job in jobs if job is not winner] == [3] * 2
    return winner


LOCAL_ONLY = pytest.mark.parametrize("new_place", ["local"], indirect=True)


@LOCAL_ONLY
def test_a_lease_whose_holder_was_killed_on_this_host_is_taken_over_unasked_and_by_one(start: Start, place):
    killed = start(lasts_s=3600)
    winner = take_over(killed, start)
    assert (holder_of(place)["process"], holder_of(place)["number"]) == (winner.pid, 2)
    assert end(winner) == 0
    (line,) = winner.stderr.read().splitlines()
    assert f"this table is taken over from process {killed.pid} on " in line
    assert line.endswith("that process no longer runs")
    assert not list(place.list())


def test_a_lease_whose_holder_was_killed_on_another_host_is_taken_over_by_one_once_it_has_expired(start: Start, place):
    winner = take_over(start(boot="that of another host"), start)
    assert end(winner) == 0
    assert winner.stderr.read().splitlines()[-1].endswith("it was not renewed for 1 s")
    assert not list(place.list())


@LOCAL_ONLY
def test_a_holder_that_was_stopped_for_too_long_stops_for_good_and_leaves_the_lease_of_the_other(start: Start, place):
    first, second = start(), start()
    assert go([first]) == ["mine"]
    first.send_signal(signal.SIGSTOP)
    assert go([second]) == ["mine"]
    first.send_signal(signal.SIGCONT)
    assert end(first) == 1  # RunError at its next step
    assert holder_of(place)["process"] == second.pid
    assert end(second) == 0


@LOCAL_ONLY
def test_whoever_is_impatient_takes_the_lease_of_another_host_at_once_and_its_holder_stops(start: Start, place):
    first, second = start(boot="that of another host", lasts_s=3600), start(take_over=True)
    assert go([first]) == ["mine"]
    assert go([second]) == ["mine"]
    assert end(first) == 1
    assert end(second) == 0
    assert second.stderr.read().splitlines()[-1].endswith("--take-over was given")


@LOCAL_ONLY
def test_of_several_that_are_impatient_one_gets_the_lease_and_the_others_leave_it(start: Start, place):
    foreign(place)
    jobs = [start(take_over=True) for _ in range(4)]
    said = go(jobs)
    (winner,) = [job for job, line in zip(jobs, said, strict=True) if line == "mine"]
    assert [job.wait(30) for job in jobs if job is not winner] == [3] * 3
    assert end(winner) == 0


@LOCAL_ONLY
def test_impatience_does_not_take_the_lease_of_a_process_that_runs_on_this_host(start: Start, place):
    first, second = start(), start(take_over=True)
    assert go([first]) == ["mine"]
    (line,) = go([second])
    assert f"held by process {first.pid} on " in line
    assert second.wait(30) == 3
    assert end(first) == 0
