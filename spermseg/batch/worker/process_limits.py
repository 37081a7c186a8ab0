"""Time and memory limits of a process. Nothing else stops a decoder that hangs or takes all memory."""

import faulthandler
import re
import resource
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

MEGAPIXELS_OF_A_LIMIT = 20
"""Megapixels that any machine segments within the time limit for decoding."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a step may take before the process counts as hanging."""

    decode_s: float
    """Seconds to wait for a decoded picture."""
    segment_s: float
    """Seconds for all other work on a picture."""

    @classmethod
    def of(cls, hang_s: float, max_megapixels: float) -> "Limits":
        """Return the limits for pictures of up to a size, given the time limit of a decoder."""
        return cls(decode_s=hang_s, segment_s=hang_s * max(1.0, max_megapixels / MEGAPIXELS_OF_A_LIMIT))

    @property
    def longest_s(self) -> float:
        """Time limit of one picture as a whole, s, for hangs that a watch cannot see."""
        return 2 * (self.decode_s + self.segment_s)


class Watch:
    """Ends this process when a step exceeds its time limit.

    The watchdog of `faulthandler` is not a Python thread. So it also stops a decoder that never releases the
    interpreter lock. A process has one watchdog: use one watch at a time.

    Args:
        limits: the time limits of the steps. None sets no limit.
    """

    def __init__(self, limits: Limits | None) -> None:
        self._limits = limits

    def decoding(self) -> None:
        """Start the time limit for decoding."""
        if self._limits:
            faulthandler.dump_traceback_later(self._limits.decode_s, exit=True)

    def segmenting(self) -> None:
        """Start the time limit for all other work on a picture."""
        if self._limits:
            faulthandler.dump_traceback_later(self._limits.segment_s, exit=True)

    def __enter__(self) -> "Watch":
        self.segmenting()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._limits:
            faulthandler.cancel_dump_traceback_later()


def limit_memory(more: int) -> None:
    """Let this process allocate `more` bytes. Beyond that an allocation fails, so the machine keeps its memory."""
    status = Path("/proc/self/status")
    found = re.search(r"VmData:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found is None:  # not Linux
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(found[1]) * 1024 + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
