"""One job at a time on a table: `OUT/lock.json`, which a conditional write lets only one process make.

A lock does not end by itself: a job that is cut off from the network for an hour may still be working. Where its holder
is gone, a person takes it over (`--take-over`). A holder that was taken for gone and is not sees at its next step that
the lock is another's, and stops.
"""

import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial

import psutil

from spermseg.errors import LockedError, ObjectExistsError, ObjectMissingError, RunError, StorageError
from spermseg.storage.filesystem import Location

logger = logging.getLogger(__name__)
CLOCK_SLACK_S = 2.0
"""How far the clock that dates a process may be from the one that dates a lock."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds the lock: what `lock.json` says."""

    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """ISO 8601, UTC."""
    arguments: Sequence[str] = ()
    """The words of its command line, without secrets."""
    token: str = field(default_factory=partial(secrets.token_hex, 16))
    """What tells this holder from every other one, be it the same process number of the same host."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"

    @property
    def runs(self) -> bool | None:
        """Whether the process still runs; None where nobody here can tell, since it is of another host."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.process)
            newer = process.create_time() > datetime.fromisoformat(self.since).timestamp() + CLOCK_SLACK_S
            return not (newer or self.process == os.getpid() or process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False
        except (psutil.Error, ValueError):
            return None


class Lock:
    """The lock of a table, held by this process while `hold_lock` is open."""

    def __init__(self, out: Location, arguments: Sequence[str] = ()) -> None:
        self._place = out.child("lock.json")
        self._claim = out.child("lock.take-over.json")
        self._mine = Holder(arguments=list(arguments))

    def check(self) -> None:
        """See that the lock is still this process's.

        Raises:
            RunError: another job took it over, or somebody deleted it. This job must write nothing more.
        """
        holder = _read(self._place)
        if holder is None or holder.token != self._mine.token:
            now = f"now is that of {holder}" if holder else "is gone"
            raise RunError(
                f"the lock of this job, {self._place.uri}, {now}; this job stops, and what it wrote stays: the job "
                "that took over goes on with it"
            )

    def acquire(self) -> None:
        """Make the lock.

        Raises:
            LockedError: another process holds it.
            StorageError: it could not be written.
        """
        if not _write_once(self._place, self._mine):
            raise LockedError(self._who_holds_it())

    def take_over(self) -> None:
        """Take the lock from a holder that is gone, or make it where none is. Of several who do so at once one wins.

        Raises:
            LockedError: the holder runs on this host, or another process took the lock over at the same moment.
            StorageError: it could not be read or written.
        """
        found = _bytes(self._place)
        if found is None:
            return self.acquire()
        if not _write_once(self._claim, self._mine):
            raise LockedError(
                f"{self._claim.uri}: {_read(self._claim)} is taking this table over; where that process no longer "
                "runs, delete this file and try again"
            )
        try:
            # whoever took over in between has replaced the lock before it gave up its claim
            holder = _read(self._place)
            if _bytes(self._place) != found or (holder is not None and holder.runs):
                raise LockedError(self._who_holds_it())
            self._place.write_bytes(_encode(self._mine))
        finally:
            self._give_up_claim()
        return None

    def _give_up_claim(self) -> None:
        """Delete the claim; where that fails, the lock is this process's all the same."""
        try:
            self._claim.delete()
        except StorageError as error:
            logger.warning("%s could not be deleted, no later job can take over: %s", self._claim.uri, error.message)

    def release(self) -> None:
        """Delete the lock where it is still this process's; storage that fails meanwhile is a warning."""
        try:
            holder = _read(self._place)
            if holder is not None and holder.token == self._mine.token:
                self._place.delete()
        except StorageError as error:
            logger.warning("the lock could not be released, the next job needs --take-over: %s", error.message)

    def _who_holds_it(self) -> str:
        holder = _read(self._place)
        if holder is None:
            return f"{self._place.uri}: another job came first and has just ended; start again"
        advice = {
            True: "that process still runs: wait until it has ended, or end it",
            False: f"that process no longer runs: {_TAKE_OVER}",
            None: f"wait until it has ended; only where that process no longer runs, {_TAKE_OVER}",
        }
        return f"{self._place.uri}: this table is held by {holder}; {advice[holder.runs]}"


_TAKE_OVER = "the same command with --take-over goes on with its work"


@contextmanager
def hold_lock(out: Location, arguments: Sequence[str] = (), *, take_over: bool = False) -> Iterator[Lock]:
    """Hold the lock of a table; it is released however the work ends, unless the process is killed.

    Args:
        out: the table.
        arguments: the words of the command line, without secrets.
        take_over: take the lock from its holder, which must be gone.

    Raises:
        LockedError: another process holds it; with `take_over`, one that runs on this host, or took over just now.
        StorageError: it could not be written.
    """
    lock = Lock(out, arguments)
    try:
        if take_over:
            lock.take_over()
        else:
            lock.acquire()
        yield lock
    finally:
        lock.release()


def _encode(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=2) + "\n").encode()


def _write_once(place: Location, holder: Holder) -> bool:
    """Write a file that is not there yet, and return whether this process did.

    A storage that answered too late is asked again, and then finds the file that it has just written.
    """
    try:
        place.write_bytes(_encode(holder), only_if_absent=True)
    except ObjectExistsError:
        return _bytes(place) == _encode(holder)
    return True


def _bytes(place: Location) -> bytes | None:
    with suppress(ObjectMissingError):
        return place.read_bytes()
    return None


def _read(place: Location) -> Holder | None:
    """Return the holder that a file names; None where it is not there."""
    data = _bytes(place)
    if data is None:
        return None
    try:
        said = json.loads(data)
        return Holder(**{name: type(default)(said[name]) for name, default in asdict(Holder()).items()})
    except (ValueError, TypeError, KeyError):
        return Holder(host="an unknown host (the file is damaged)", process=0, since="an unknown time", token="")
