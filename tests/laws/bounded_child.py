"""Reads untrusted files in a child process bounded in memory and time, which is replaced when one of them ends it."""

import faulthandler
import os
import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from laws.readers import Read, read_untrusted
from loky import ProcessPoolExecutor
from loky.process_executor import TerminatedWorkerError

from spermseg.batch.worker.process_limits import limit_memory
from spermseg.errors import first_line

MORE_BYTES = 512 << 20
"""What reading one file may take beside what the process has."""
START_S = 300
"""Time for a child to start; a busy machine is slow at it."""

STDERR = 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one file."""

    kind: str
    seed: int
    reasons: tuple[str, ...] = ()
    """Why it, or parts of it, were rejected."""
    failure: str | None = None
    """How the law was broken; None where it held."""
    seconds: float = 0.0
    peak_mib: float = 0.0
    """The most resident memory beside what the process had."""

    @property
    def name(self) -> str:
        """`accepted`, `rejected` or `failed`."""
        return "failed" if self.failure else "rejected" if self.reasons else "accepted"


class BoundedChild:
    """Tries files one after the other.

    Args:
        read: what reads a file.
        hang_s: how long it may take for one.
    """

    def __init__(self, read: Read = read_untrusted, hang_s: float = 10.0) -> None:
        self._read = read
        self._hang_s = hang_s
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "BoundedChild":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def outcomes(self, files: Iterable[tuple[str, int, bytes]]) -> Iterator[Outcome]:
        """Yield what comes of each (kind, seed, file)."""
        for kind, seed, data in files:
            yield self.outcome(kind, seed, data)

    def outcome(self, kind: str, seed: int, data: bytes) -> Outcome:
        """Return what comes of a file; one that ends a child is tried again in a fresh one, which it has for itself."""
        fresh = self._pool is None
        found = self._try(kind, seed, data)
        if isinstance(found, Outcome):
            return found
        self._close()
        if fresh:
            return Outcome(kind=kind, seed=seed, failure=found)
        again = self.outcome(kind, seed, data)
        return Outcome(kind=kind, seed=seed, failure=again.failure or f"{found}, though not in a fresh process")

    def _try(self, kind: str, seed: int, data: bytes) -> Outcome | str:
        """Return the outcome, or what the file did to the child."""
        try:
            return self._started().submit(_outcome, kind, seed, data).result(3 * self._hang_s)
        except TerminatedWorkerError as error:
            signal = re.search(r"\{(SIG[A-Z]+)", str(error))  # told in its text only
            return f"ended its process ({signal[1]})" if signal else f"hung for {self._hang_s:g} s, or exited"
        except NotInTimeError:
            return f"hung for {3 * self._hang_s:g} s, and could not be ended from within"

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, initializer=_start, initargs=(self._read, self._hang_s), timeout=None)
            self._pool.submit(_nothing).result(START_S)
        return self._pool

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(kill_workers=True)
            self._pool = None


_read: Read
_hang_s: float
_terminal: int
"""Of a child process."""


def _start(read: Read, hang_s: float) -> None:
    global _read, _hang_s, _terminal
    _read, _hang_s, _terminal = read, hang_s, os.dup(STDERR)
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)  # C libraries tell all that they find wrong
    limit_memory(MORE_BYTES)


def _nothing() -> None:
    """Do nothing: that it returns tells that the child is ready."""


def _outcome(kind: str, seed: int, data: bytes) -> Outcome:
    reasons: list[str] = []
    failure = None
    before, started = _resident_mib("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    faulthandler.dump_traceback_later(_hang_s, exit=True, file=_terminal)
    try:
        reasons = _read(kind, data)
    except Exception as error:  # noqa: BLE001 (the law: nothing but SpermsegError, which is no exception here)
        failure = f"{type(error).__name__}: {first_line(error)}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    return Outcome(
        kind=kind,
        seed=seed,
        reasons=tuple(reasons),
        failure=failure,
        seconds=time.perf_counter() - started,
        peak_mib=max(0.0, _resident_mib("VmHWM") - before),
    )


def _resident_mib(name: str) -> float:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
