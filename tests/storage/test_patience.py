"""How long is tried what may pass: a time, on every kind of storage, and a line to the person who waits."""

import errno
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from support.places import put

from spermseg.errors import ConfigError, ObjectExistsError, StorageError
from spermseg.storage import patience
from spermseg.storage.filesystem import Location
from spermseg.storage.local import backend as local
from spermseg.storage.patience import Patience

PASSING = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN, errno.EHOSTDOWN]


@pytest.fixture(autouse=True)
def short_waits() -> None:
    patience.be_patient(Patience(longest_wait_s=0.01))


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location(str(tmp_path / "folder"))


@pytest.fixture
def no_patience() -> None:
    patience.be_patient(Patience(total_s=0))


def failing(function: Callable[..., object], number: int, times: float) -> Callable[..., object]:
    """Return a function that fails so many times before it does what it does."""
    left = times

    def fail_at_first(*arguments: object, **options: object) -> object:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(number, os.strerror(number))
        return function(*arguments, **options)

    return fail_at_first


def uses_of(folder: Location) -> dict[str, Callable[[], object]]:
    """Return what fails where its name does."""
    file = folder.child("a.jpg")
    return {
        "os.stat": file.stat,
        "os.fsync": lambda: file.write_bytes(b"x"),
        "Path.open": file.read_bytes,
        "os.fstat": lambda: file.read_range(0, 1, etag=file.stat().etag),
        "os.scandir": lambda: list(folder.list()),
        "Path.unlink": file.delete,
    }


@pytest.mark.parametrize("name", uses_of(Location("/")))
@pytest.mark.parametrize("number", PASSING)
def test_a_network_file_system_that_comes_back_is_not_noticed(folder, monkeypatch, name, number):
    put(folder, "a.jpg")
    use = uses_of(folder)[name]
    where = {"Path": Path, "os": local.os}[name.partition(".")[0]]
    function = name.partition(".")[2]
    monkeypatch.setattr(where, function, failing(getattr(where, function), number, 4))
    use()


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.usefixtures("no_patience")
def test_a_network_file_system_that_stays_away_is_one_line(folder, monkeypatch, number):
    put(folder, "b.jpg")
    monkeypatch.setattr(local.os, "fsync", failing(os.fsync, number, 10**6))
    with pytest.raises(StorageError, match=r"^[^\n]+ could not be written: [^\n]+$"):
        folder.child("a.jpg").write_bytes(b"x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EINVAL])
def test_what_does_not_pass_is_not_tried_again(folder, monkeypatch, number):
    monkeypatch.setattr(local.os, "fsync", failing(os.fsync, number, 1))
    with pytest.raises(StorageError):
        folder.child("a.jpg").write_bytes(b"x")


def test_a_file_that_the_first_attempt_left_there_is_a_success_and_anothers_is_not(folder, monkeypatch):
    folder.child("a").write_bytes(b"x")
    with monkeypatch.context() as patch:
        synced = iter([None, OSError(errno.EIO, "gone"), None, None])  # the file; its folder; both again
        sync = os.fsync

        def fsync(handle: int) -> None:
            if error := next(synced):
                raise error
            sync(handle)

        patch.setattr(local.os, "fsync", fsync)
        folder.child("lock").write_bytes(b"mine", only_if_absent=True)
    monkeypatch.setattr(local.os, "fsync", failing(os.fsync, errno.EIO, 1))
    with pytest.raises(ObjectExistsError):
        folder.child("a").write_bytes(b"mine", only_if_absent=True)


class Clock:
    """Time that passes where somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("total_s", [0, 1, 60, 600, 7200])
def test_nothing_is_given_up_before_its_time_and_not_long_after(monkeypatch, total_s):
    clock, waits = Clock(), []
    monkeypatch.setattr("tenacity.time.monotonic", lambda: clock.now)
    monkeypatch.setattr(patience.time, "monotonic", lambda: clock.now)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds

    def fail() -> None:
        clock.now += 0.01
        raise StorageError("away")

    retrying = Patience(total_s=total_s).retrying("s3://clinic", lambda error: isinstance(error, StorageError))
    retrying.sleep = wait
    with pytest.raises(StorageError, match="away"):
        retrying(fail)
    assert total_s <= clock.now <= total_s + 1
    assert max(waits, default=0) <= 30
    assert len(waits) >= total_s / 31


def test_who_waits_is_told_what_for_and_how_long_but_not_all_the_time(monkeypatch, caplog):
    clock = Clock()
    monkeypatch.setattr("tenacity.time.monotonic", lambda: clock.now)
    monkeypatch.setattr(patience.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(patience, "_told", patience._Told())

    def fail() -> None:
        raise StorageError("s3://clinic/a: no answer\nat all")

    told = []
    retrying = Patience(total_s=300, tell=told.append).retrying("s3://clinic/a", lambda _: True)
    retrying.sleep = clock.wait
    with caplog.at_level(logging.WARNING), pytest.raises(StorageError):
        retrying(fail)
    assert told == caplog.messages
    assert 5 <= len(caplog.messages) <= 11
    assert all(message.startswith("s3://clinic/a: waiting for the storage, for up to ") for message in caplog.messages)
    assert all(message.endswith(" more: s3://clinic/a: no answer at all") for message in caplog.messages)


def test_who_waits_says_no_secret(monkeypatch, caplog):
    monkeypatch.setattr(patience, "_told", patience._Told())
    monkeypatch.setenv("AWS_SESSION_TOKEN", "wJalrXUtnFEMI")

    def fail() -> None:
        raise StorageError("no header may hold wJalrXUtnFEMI")

    told = []
    retrying = Patience(total_s=3, told_after_s=0, tell=told.append).retrying("s3://clinic/a", lambda _: True)
    retrying.sleep = lambda _: patience.stop_waiting()
    with pytest.raises(StorageError):
        retrying(fail)
    assert told == caplog.messages
    assert told[0].endswith(" more: no header may hold ***")


def test_a_place_keeps_its_own_patience_wherever_it_travels():
    place = Location("s3://clinic/a", "http://one:1", patience=Patience(total_s=7))
    assert pickle.loads(pickle.dumps(place.child("b"))).patience == Patience(total_s=7)
    assert place == Location("s3://clinic/a", "http://one:1")


@pytest.mark.parametrize("minutes", [-1, float("inf"), float("nan")])
def test_a_patience_that_is_no_time_is_refused(minutes):
    with pytest.raises(ConfigError, match="a finite number, 0 or more, is needed"):
        Patience(total_s=60 * minutes)
