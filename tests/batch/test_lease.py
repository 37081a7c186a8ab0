import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import pytest

from spermseg.batch.lease import Holder, Lock, hold_lock
from spermseg.errors import LockedError, ObjectDeniedError, RunError
from spermseg.storage.filesystem import Location

HOLD = """
import socket, sys
uri, server, take_over, host = sys.argv[1:]
if host:
    socket.gethostname = lambda: host
from spermseg.batch.lease import hold_lock
from spermseg.errors import LockedError
from spermseg.storage.filesystem import Location
sys.stdin.readline()  # all at once
try:
    with hold_lock(Location(uri, server or None), ["segment"], take_over=take_over == "yes") as lock:
        print("mine", flush=True)
        sys.stdin.readline()
        lock.check()
except LockedError as error:
    print(error.message, flush=True)
    sys.exit(3)
"""
"""A job: it waits for a line, takes the lock, says so, waits for another line, and ends."""


@pytest.fixture
def start(place: Location):
    """Start jobs on `place`, each a process of its own, and end those that are left."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*, take_over: bool = False, host: str = "") -> subprocess.Popen[str]:
        words = [place.uri, place.endpoint_url or "", "yes" if take_over else "no", host]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLD, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start_one
    for job in started:
        job.kill()
        job.wait()
        for pipe in (job.stdin, job.stdout):
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


def holder_of(place: Location) -> dict:
    return json.loads(place.child("lock.json").read_bytes())


def foreign(place: Location, **changes) -> Holder:
    """Have the lock held by a process that cannot be asked whether it runs."""
    holder = replace(Holder(host="head-2.clinic", process=77, since="2026-01-02T03:04:05+00:00"), **changes)
    place.child("lock.json").write_bytes(json.dumps(asdict(holder)).encode())
    return holder


Start = Callable[..., subprocess.Popen[str]]


def test_of_jobs_that_start_at_the_same_moment_one_gets_the_lock_and_is_unharmed(start: Start, place):
    jobs = [start() for _ in range(6)]
    said = go(jobs)
    (winner,) = [job for job, line in zip(jobs, said, strict=True) if line == "mine"]
    assert holder_of(place)["process"] == winner.pid
    for job, line in zip(jobs, said, strict=True):
        if job is not winner:
            assert f"this table is held by process {winner.pid} on {socket.gethostname()}, since 20" in line
            assert job.wait(30) == 3
    assert holder_of(place)["process"] == winner.pid
    assert end(winner) == 0
    assert not list(place.list())


def test_a_lock_whose_holder_was_killed_is_taken_over_by_word_only_and_by_one(start: Start, place):
    killed = start()
    assert go([killed]) == ["mine"]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (line,) = go([start()])
    assert "that process no longer runs: the same command with --take-over goes on with its work" in line
    jobs = [start(take_over=True) for _ in range(5)]
    said = go(jobs)
    (winner,) = [job for job, line in zip(jobs, said, strict=True) if line == "mine"]
    assert [job.wait(30) for job in jobs if job is not winner] == [3] * 4
    assert holder_of(place)["process"] == winner.pid
    assert end(winner) == 0
    assert not list(place.list())


def test_a_holder_that_was_taken_for_gone_stops_and_leaves_the_lock_of_the_other(start: Start, place):
    first, second = start(host="head-2.clinic"), start(take_over=True)
    assert go([first]) == ["mine"]
    assert go([second]) == ["mine"]
    assert end(first) == 1  # RunError at its next step
    assert holder_of(place)["process"] == second.pid
    assert end(second) == 0


def test_a_lock_whose_holder_runs_on_this_host_is_not_taken_over(start: Start, place):
    first, second = start(), start(take_over=True)
    assert go([first]) == ["mine"]
    (line,) = go([second])
    assert line.endswith("that process still runs: wait until it has ended, or end it")
    assert second.wait(30) == 3
    assert end(first) == 0


def test_a_lock_that_another_holds_is_a_line_that_says_who_since_when(out):
    foreign(out)
    before = holder_of(out)
    with pytest.raises(LockedError) as caught, hold_lock(out):
        raise AssertionError
    assert "held by process 77 on head-2.clinic, since 2026-01-02T03:04:05+00:00; wait until" in caught.value.message
    assert "\n" not in caught.value.message
    assert holder_of(out) == before


@pytest.mark.parametrize("work_ends", [KeyboardInterrupt, RunError("stopped"), SystemExit(1), None])
def test_the_lock_is_released_however_the_work_ends(out, work_ends):
    try:
        with hold_lock(out, ["segment", "uploads"]):
            assert holder_of(out)["arguments"] == ["segment", "uploads"]
            assert holder_of(out)["process"] == os.getpid()
            if work_ends:
                raise work_ends
    except (KeyboardInterrupt, RunError, SystemExit):
        pass
    assert not list(out.list())


def test_a_lock_that_was_deleted_or_taken_over_stops_its_job(out):
    with hold_lock(out) as lock:
        lock.check()
        out.child("lock.json").delete()
        with pytest.raises(RunError, match="is gone; this job stops, and what it wrote stays"):
            lock.check()
        foreign(out)
        with pytest.raises(RunError, match=r"now is that of process 77 on head-2\.clinic"):
            lock.check()
    assert holder_of(out)["process"] == 77  # not this job's to release


def test_taking_over_where_no_lock_is_makes_one(out):
    with hold_lock(out, take_over=True) as lock:
        lock.check()
    assert not list(out.list())


def test_a_take_over_that_is_under_way_keeps_another_out(out):
    foreign(out)
    out.child("lock.take-over.json").write_bytes(out.child("lock.json").read_bytes())
    with (
        pytest.raises(LockedError, match=r"is taking this table over; where .* delete this file"),
        hold_lock(out, take_over=True),
    ):
        raise AssertionError
    assert holder_of(out)["process"] == 77


def test_who_may_not_delete_his_claim_has_the_lock_all_the_same(out, monkeypatch, caplog):
    foreign(out)

    def deny(place):
        raise ObjectDeniedError(f"{place.uri} may not be deleted")

    monkeypatch.setattr(Location, "delete", deny)
    with hold_lock(out, take_over=True):
        assert holder_of(out)["process"] != 77
    assert "lock.take-over.json could not be deleted, no later job can take over" in caplog.text


def test_a_lock_that_was_replaced_while_it_was_taken_over_stays_with_whom_it_is(out, monkeypatch):
    foreign(out)
    late = Lock(out)
    claim = late._claim
    with monkeypatch.context() as patch:

        def another_comes_first(place, data, **condition):
            patch.undo()
            foreign(out, process=78)
            place.write_bytes(data, **condition)

        patch.setattr(Location, "write_bytes", another_comes_first)
        with pytest.raises(LockedError, match="held by process 78"):
            late.take_over()
    assert holder_of(out)["process"] == 78
    assert not claim.exists()


def test_a_storage_that_answers_too_late_and_is_asked_again_gives_the_lock(out, monkeypatch):
    write = Location.write_bytes

    def twice(place, data, **condition):
        write(place, data, **condition)
        write(place, data, **condition)

    monkeypatch.setattr(Location, "write_bytes", twice)
    with hold_lock(out) as lock:
        lock.check()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"host": "a", "process": "b"}'])
def test_a_damaged_lock_is_held_by_nobody_knows_whom_until_it_is_taken_over(out, data):
    out.child("lock.json").write_bytes(data)
    with pytest.raises(LockedError, match=r"an unknown host \(the file is damaged\)"), hold_lock(out):
        raise AssertionError
    with hold_lock(out, take_over=True) as lock:
        lock.check()


def test_whether_a_holder_runs_is_told_by_host_process_and_time():
    parent = Holder(process=os.getppid())
    assert parent.runs is True
    assert replace(parent, host="head-2.clinic").runs is None
    assert replace(parent, since="some time ago").runs is None
    assert replace(parent, since="2001-01-01T00:00:00+00:00").runs is False  # the number came round
    assert Holder().runs is False  # no process waits for itself: this number was another's before
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert Holder(process=child.pid).runs is False
