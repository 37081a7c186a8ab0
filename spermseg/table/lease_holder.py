"""Who holds the lease of a table, as `OUT/lock.json` says, and whether that process still runs."""

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
"""A lease that is not renewed for so long has expired."""
SHORTEST_S, LONGEST_S = 0.1, 3600.0
"""What is believed of a file that anybody may have written."""
LARGEST_FILE = 1 << 20
"""Bytes; a lease has under a thousand, and a command line."""
TRIES = 20
"""Times that a lease is looked at which changes between two requests."""
MOST_WORDS, LONGEST_WORD = 50, 1000
"""Of the command line: what is stored must be read again."""
ENDED = ("Z", "X", "x")
"""States of a process that has ended."""

Text = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What `lock.json` says. A file of an earlier version says less: it is a lease that nobody renews."""

    number: Count = 0
    """One more than that of the lease which this one took over."""
    host: Text = ""
    boot: Text = ""
    """Id of the host's boot: other than its name, no other host has it, nor the same one after a crash."""
    processes: Text = ""
    """The process namespace, in which a number of a process means something: a container has one of its own."""
    process: Count = 0
    process_start: Text = ""
    """When that process began, in ticks since the boot: numbers come round."""
    since: Text = ""
    """ISO 8601, UTC; for people only."""
    arguments: Sequence[str] = ()
    """The words of its command line, without secrets."""
    token: Text = ""
    """What tells this lease from every other one."""
    renewals: Count = 0
    lasts_s: Annotated[float, Field(ge=SHORTEST_S, le=LONGEST_S)] = LASTS_S
    """It has expired when it was not renewed for so long, by the clock of whoever watches it."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"

    @property
    def runs(self) -> bool | None:
        """Whether the process still runs; None where nobody here can tell.

        Proven is something only of a process of the same boot of the same host, and of the same process namespace.
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
    """A lease as it lies there."""

    holder: Holder
    etag: str


HELD: set[str] = set()
"""Tokens of the leases that this process holds."""


def this_process(arguments: Sequence[str] = ()) -> Holder:
    """Return this process as a holder.

    Args:
        arguments: the words of its command line, without secrets.
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
    """Return what is stored."""
    return (json.dumps(asdict(holder), indent=2) + "\n").encode()


def find_holder(place: Location) -> Found | None:
    """Return the lease that lies in a place; None where none does.

    Raises:
        StorageError: it could not be read.
    """
    for _ in range(TRIES):
        try:
            there = place.stat()
            size = there.size if there.size <= LARGEST_FILE else 0
            return Found(holder=_decode(place.read_range(0, size, etag=there.etag)), etag=there.etag)
        except ObjectMissingError:
            return None
        except ObjectChangedError:  # it was renewed this very moment
            continue
    raise StorageError(f"{place.uri} could not be read: it has another etag each time")


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
    """Whether no process has this number; one that only is hidden from this user is not gone."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _state_and_start(process: int) -> tuple[str, str]:
    """Return (state, when it began in ticks since the boot) of a process; empty where that cannot be told.

    psutil tells a time of day, which moves when the clock is set. Source: `man 5 proc_pid_stat`, fields 3 and 22.
    """
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else ("", "")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return ""
