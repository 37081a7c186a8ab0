"""The time, bytes and memory of a unit of work, by stage."""

import resource
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from spermseg.table.results import OK

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds, bytes and megapixels of some units of work. The seconds of a stage are summed over its threads."""

    fetch_s: float = 0.0
    """Time in the tasks that fetch bytes."""
    fetched_bytes: float = 0.0
    idle_s: float = 0.0
    """Time that a worker waited for the bytes of its next unit."""
    wait_s: float = 0.0
    """Time that the network waited for decoded pictures."""
    decode_s: float = 0.0
    """Time in the threads that decode."""
    network_s: float = 0.0
    """Time in the network."""
    measure_s: float = 0.0
    """Time in the threads that find and measure cells."""
    segment_s: float = 0.0
    """Time from the first byte of a unit to its last row."""
    write_s: float = 0.0
    written_bytes: float = 0.0
    megapixels: float = 0.0
    """Megapixels of the pictures that are ok, at their native resolution."""
    peak_bytes: float = 0.0
    """Peak memory of a worker."""

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]], *, wall_s: float, waited_s: float, network_s: float) -> "Spent":
        """Return the time and memory of segmenting a unit.

        Args:
            rows: the result rows of the unit.
            wall_s: time from its first byte to its last row.
            waited_s: part of that time in which the network waited for decoded pictures.
            network_s: part of that time in which the network worked.
        """
        done = [row for row in rows if row["status"] == OK]
        return cls(
            wait_s=waited_s,
            network_s=network_s,
            segment_s=wall_s,
            decode_s=sum(row["decode_ms"] for row in done) / 1000,
            measure_s=sum(row["measure_ms"] for row in done) / 1000,
            megapixels=sum(row["width_px"] * row["height_px"] for row in done) / 1e6,
            peak_bytes=peak_bytes(),
        )

    def __add__(self, other: "Spent") -> "Spent":
        """Return the sums, with the larger of both peaks."""
        sums = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        return Spent(**(sums | {"peak_bytes": max(self.peak_bytes, other.peak_bytes)}))


def peak_bytes() -> float:
    """Return the peak memory of this process, bytes."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB)
