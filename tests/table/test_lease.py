import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import pytest
from support.fault_proxy import Fault, FaultProxy, Kind
from support.held_tables import foreign, holder_of

from spermseg.errors import LockedError, RunError
from spermseg.storage.filesystem import Location
from spermseg.table import lease as leases
from spermseg.table import lease_holder as holders
from spermseg.table.lease import Lease, hold_lease
from spermseg.table.lease_holder import encode_holder, find_holder, this_process


class Clock:
    """A clock that goes as fast as somebody sleeps, and does something at times."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at: dict[float, Callable[[], object]] = {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for when in [when for when in self.at if when <= self.now]:
            self.at.pop(when)()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock of whoever watches a lease."""
    made = Clock()
    monkeypatch.setattr(leases, "time", made)
    return made


@pytest.fixture
def short(monkeypatch) -> float:
    """Leases of this process that are renewed every few hundredths of a second."""
    monkeypatch.setattr(holders, "LASTS_S", 0.5)
    return 0.5


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Watching another's lease


def test_a_lease_that_is_renewed_is_anothers_and_a_line_says_whose(out, clock, caplog):
    holder = foreign(out)
    clock.at[100] = lambda: out.child("lock.json").write_bytes(encode_holder(replace(holder, renewals=1)))
    with pytest.raises(LockedError) as caught, hold_lease(out):
        raise AssertionError
    assert "held by process 77 on head-2.clinic, since 2026-01-02, which is at work" in caught.value.message
    assert "\n" not in caught.value.message
    assert holder_of(out)["process"] == 77
    assert clock.now < 110
    (waiting,) = caplog.messages
    assert "held by process 77 on head-2.clinic" in waiting
    assert "if not within 3 min, this job takes over" in waiting


def test_a_lease_that_is_not_renewed_is_taken_over_after_its_own_time(out, clock, caplog):
    foreign(out, lasts_s=600, number=4)
    with hold_lease(out) as lease:
        lease.check()
        assert holder_of(out)["number"] == 5
    assert 600 <= clock.now < 610
    assert caplog.messages[-1].endswith(
        "taken over from process 77 on head-2.clinic, since 2026-01-02: it was not renewed for 10 min"
    )


def test_a_lease_that_is_given_up_meanwhile_is_made_anew(out, clock):
    foreign(out)
    clock.at[50] = out.child("lock.json").delete
    with hold_lease(out):
        assert holder_of(out)["number"] == 1
    assert clock.now < 60


def test_a_lease_that_another_takes_first_is_the_others(out, clock):
    foreign(out)
    clock.at[50] = lambda: foreign(out, number=2)
    with pytest.raises(LockedError), hold_lease(out):
        raise AssertionError
    assert holder_of(out)["number"] == 2


def test_time_in_which_the_storage_did_not_answer_proves_nothing_against_the_holder(out, clock, monkeypatch):
    foreign(out)
    find = leases.find_holder

    def slow(place):
        if 100 < clock.now < 400:
            clock.now += 400  # an outage: nobody could renew anything
        return find(place)

    monkeypatch.setattr(leases, "find_holder", slow)
    with hold_lease(out):
        pass
    assert clock.now > 500 + 70


@pytest.mark.parametrize("lasts_s", [0, -1, 1e9, "NaN", "long"])
def test_a_time_that_nobody_means_is_that_of_a_damaged_file(out, clock, lasts_s):
    said = asdict(foreign(out)) | {"lasts_s": lasts_s}
    out.child("lock.json").write_bytes(json.dumps(said).encode())
    with hold_lease(out):
        pass
    assert 180 <= clock.now < 190


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"host": "a", "process": "b"}', bytes(2 << 20)])
def test_a_damaged_lease_is_that_of_nobody_knows_whom_and_expires(out, clock, caplog, data):
    out.child("lock.json").write_bytes(data)
    with hold_lease(out) as lease:
        lease.check()
    assert 180 <= clock.now < 190
    assert "an unknown host (the file is damaged)" in caplog.messages[-1]


def test_a_lock_of_an_earlier_version_is_a_lease_that_nobody_renews(out, clock, caplog):
    old = {"host": "head-2.clinic", "process": 77, "since": "2026-01-02", "arguments": ["segment"], "token": "t"}
    out.child("lock.json").write_bytes(json.dumps(old).encode())
    with hold_lease(out):
        assert holder_of(out)["number"] == 1
    assert 180 <= clock.now < 190
    assert "taken over from process 77 on head-2.clinic, since 2026-01-02" in caplog.messages[-1]


def test_a_lease_that_was_replaced_while_it_was_taken_over_stays_with_whom_it_is(out, clock, monkeypatch):
    foreign(out)
    with monkeypatch.context() as patch:

        def another_comes_first(place, data, **condition):
            patch.undo()
            monkeypatch.setattr(leases, "time", clock)
            other = foreign(out, number=2)
            clock.at[clock.now + 5] = lambda: place.write_bytes(encode_holder(replace(other, renewals=1)))
            return place.write_bytes(data, **condition)

        patch.setattr(Location, "write_bytes", another_comes_first)
        with pytest.raises(LockedError, match="held by process 77"):
            Lease(out).acquire(take_over=True)
    assert holder_of(out)["number"] == 2


# Holding one


def test_a_lease_is_renewed_while_it_is_held(out, short):
    with hold_lease(out, ["segment"]) as lease:
        until(lambda: holder_of(out)["renewals"] > 3)
        lease.check()
    assert not list(out.list())


@pytest.mark.parametrize("work_ends", [KeyboardInterrupt, RunError("stopped"), SystemExit(1), None])
def test_the_lease_is_released_however_the_work_ends(out, work_ends):
    try:
        with hold_lease(out, ["segment", "uploads"]):
            assert holder_of(out)["arguments"] == ["segment", "uploads"]
            assert holder_of(out)["process"] == os.getpid()
            if work_ends:
                raise work_ends
    except (KeyboardInterrupt, RunError, SystemExit):
        pass
    assert not list(out.list())
    assert "lease" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("words", [["caf\udce9.jpg", "\x1b[2J"], ["x" * 3_000_000], ["é" * 999] * 1000])
def test_whatever_the_command_line_is_the_lease_is_read_again(out, words):
    with hold_lease(out, words) as lease:
        lease.check()
    assert not list(out.list())


def test_a_lease_that_was_deleted_or_taken_over_stops_its_job(out):
    with hold_lease(out) as lease:
        lease.check()
        out.child("lock.json").delete()
        with pytest.raises(RunError, match="is gone; this job stops, its results stay, and the same command continues"):
            lease.check()
        foreign(out)
        with pytest.raises(
            RunError,
            match=r"now belongs to process 77 on head-2\.clinic, .*, and that job continues$",
        ):
            lease.check()
    assert holder_of(out)["process"] == 77  # not this job's to release


def test_a_lease_that_is_anothers_by_now_is_not_renewed(out, short):
    with hold_lease(out):
        until(lambda: holder_of(out)["renewals"])
        foreign(out, number=2)
        until(lambda: "lease" not in {thread.name for thread in threading.enumerate()})
    assert (holder_of(out)["number"], holder_of(out)["renewals"]) == (2, 0)


def test_a_storage_that_answers_too_late_and_is_asked_again_gives_the_lease(out, monkeypatch, short):
    write = Location.write_bytes

    def twice(place, data, **condition):
        write(place, data, **condition)
        return write(place, data, **condition)

    monkeypatch.setattr(Location, "write_bytes", twice)
    with hold_lease(out) as lease:
        lease.check()


@pytest.fixture
def proxied(moto_server) -> Iterator[tuple[FaultProxy, Location]]:
    """A table on S3, and what stands before it."""
    with FaultProxy(moto_server.endpoint_url) as proxy:
        yield proxy, Location(moto_server.new_bucket().child("table").uri, proxy.endpoint_url)


def test_a_storage_that_is_away_for_a_while_is_two_lines_and_the_lease_is_kept(proxied, short, caplog):
    proxy, table = proxied
    with hold_lease(table) as lease:
        away = proxy.inject(Fault(kind=Kind.RESET, times=None))
        until(lambda: "this job's lock was not renewed for" in caplog.text)
        time.sleep(short / 4)
        proxy.remove(away)
        until(lambda: "this job's lock is renewed again" in caplog.text)
        lease.check()
    late, _ = (message for message in caplog.messages if "this job's lock" in message)
    assert "After 0.5 s without a renewal, another job may take the table over. This job retries" in late
    assert "could not be released" not in caplog.text
    assert not list(table.list())


@pytest.mark.parametrize("kind", [Kind.RESET, Kind.EXPIRED, Kind.BAD_KEY])
def test_a_lease_that_cannot_be_released_is_a_line_that_is_true(proxied, short, clock, caplog, kind):
    proxy, table = proxied
    with hold_lease(table):
        refused = proxy.inject(Fault(kind=kind, times=None))
    (line,) = (message for message in caplog.messages if "could not be released" in message)
    assert "expires by itself 0.5 s after its last renewal: s3://" in line
    proxy.remove(refused)
    with hold_lease(table) as lease:  # unasked
        assert holder_of(table)["number"] == 2
        lease.check()


def test_a_server_that_knows_no_conditions_still_has_one_holder_in_the_end(proxied, short, monkeypatch):
    _, table = proxied
    write = Location.write_bytes
    monkeypatch.setattr(Location, "write_bytes", lambda place, data, **_: write(place, data))
    with hold_lease(table) as lease:
        other = foreign(table, number=2)
        with pytest.raises(RunError):
            lease.check()
    assert find_holder(table.child("lock.json")).holder == other


# Whether a holder runs


def test_whether_a_holder_runs_is_told_by_boot_namespace_number_and_start():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    running = replace(this_process(), process=child.pid, process_start=holders._state_and_start(child.pid)[1])
    assert running.runs is True
    assert replace(running, boot="another").runs is None
    assert replace(running, processes="pid:[1]").runs is None
    assert replace(running, boot="", processes="").runs is None
    assert replace(running, process_start="7").runs is False  # the number came round
    assert replace(running, process_start="").runs is None
    assert replace(running, process=2**40).runs is None
    child.kill()
    until(lambda: holders._state_and_start(child.pid)[0] == "Z")
    assert running.runs is False
    child.communicate()
    assert running.runs is False


def test_a_lease_of_this_very_process_is_held_only_while_it_is(out):
    with hold_lease(out):
        held = find_holder(out.child("lock.json")).holder
        assert held.runs is True
    assert held.runs is False


def test_a_process_that_is_hidden_is_not_gone(monkeypatch):
    hidden = replace(this_process(), process=os.getppid())
    monkeypatch.setattr(holders, "_state_and_start", lambda _: ("", ""))
    assert hidden.runs is None
