"""The holder of a lease, as `OUT/lock.json` names it, and whether its process still runs."""

import json
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from spermseg.errors import ObjectChangedError, ObjectMissingError, StorageError
from spermseg.storage.filesystem import Location
from spermseg.storage.uris import storable

LASTS_S = 180.0
"""Time without a renewal after which a lease has expired."""
SHORTEST_S, LONGEST_S = 0.1, 3600.0
"""Bounds of the duration in a file. Anybody may have written the file."""
LARGEST_FILE = 1 << 20
"""Limit on the bytes of a file. A lease has less than a thousand, and a command line."""
TRIES = 20
"""Number of attempts to read a lease that changes between two requests."""
MOST_WORDS, LONGEST_WORD = 50, 1000
"""Limits on the stored command line, so that the file stays below `LARGEST_FILE`."""
ENDED = ("Z", "X", "x")
"""States of a process that has ended, in `/proc`."""

Text = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The content of `lock.json`. A file of an earlier version has fewer fields, and nobody renews it."""

    number: Count = 0
    """One more than the number of the lease that this one took over."""
    host: Text = ""
    boot: Text = ""
    """Boot id of the host. Unlike the host name, it is unique, and changes after a crash."""
    processes: Text = ""
    """The process namespace, in which `process` is valid. A container has its own."""
    process: Count = 0
    """The process id."""
    process_start: Text = ""
    """Start of the process, in ticks since the boot. Process ids are used again."""
    since: Text = ""
    """Time at which the lease was made, ISO 8601, UTC; for people only."""
    arguments: Sequence[str] = ()
    """The words of the command line of the process, without secrets."""
    token: Text = ""
    """A random text that is unique to this lease."""
    renewals: Count = 0
    lasts_s: Annotated[float, Field(ge=SHORTEST_S, le=LONGEST_S)] = LASTS_S
    """Time without a renewal after which the lease has expired, by the clock of the process that watches it."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"

    @property
    def runs(self) -> bool | None:
        """Whether the process still runs; None if this process cannot tell.

        It can tell only for a process of the same boot of the same host, in the same process namespace.
        """
        if not (self.boot and self.processes and (self.boot, self.processes) == (_boot(), _processes())):
            return None
        state, start = _state_and_start(self.process)
        if self.process == os.getpid() and start == self.process_start:
            return self.token in HELD
        if state in ENDED or _is_gone(self.process):
            return False
        return start == self.process_start if start and self.process_start else None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A lease that was read, with the etag of its file."""

    holder: Holder
    etag: str


HELD: set[str] = set()
"""Tokens of the leases that this process holds or is acquiring."""


def this_process(arguments: Sequence[str] = ()) -> Holder:
    """Return a new lease of this process.

    Args:
        arguments: the words of the command line of this process, without secrets.
    """
    return Holder(
        number=1,
        host=socket.gethostname(),
        boot=_boot(),
        processes=_processes(),
        process=os.getpid(),
        process_start=_state_and_start(os.getpid())[1],
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        arguments=[storable(word)[:LONGEST_WORD] for word in arguments[:MOST_WORDS]],
        token=secrets.token_hex(16),
        lasts_s=LASTS_S,
    )


def encode_holder(holder: Holder) -> bytes:
    """Return the content of `lock.json`."""
    return (json.dumps(asdict(holder), indent=2) + "\n").encode()


def find_holder(place: Location) -> Found | None:
    """Return the lease in a file; None if the file does not exist. A damaged file is a lease of an unknown holder.

    Raises:
        StorageError: the file could not be read.
    """
    for _ in range(TRIES):
        try:
            there = place.stat()
            size = there.size if there.size <= LARGEST_FILE else 0
            return Found(holder=_decode(place.read_range(0, size, etag=there.etag)), etag=there.etag)
        except ObjectMissingError:
            return None
        except ObjectChangedError:  # the holder has just renewed the lease
            continue
    raise StorageError(f"{place.uri} could not be read: its etag changed {TRIES} times during the reading")


def _decode(data: bytes) -> Holder:
    try:
        return _RECORD.validate_json(data)
    except ValidationError:
        return Holder(host="an unknown host (the file is damaged)", since="an unknown time")


_RECORD = TypeAdapter(Holder)


def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _processes() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _is_gone(process: int) -> bool:
    """Whether no process has this id. A process that is hidden from this user counts as not gone."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _state_and_start(process: int) -> tuple[str, str]:
    """Return (state, start in ticks since the boot) of a process; empty texts if they are unknown.

    psutil returns the start as a time of day, which changes when the clock is set. Source: fields 3 and 22 of
    `man 5 proc_pid_stat`.
    """
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return ""
