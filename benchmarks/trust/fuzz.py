"""Does a damaged file cause anything but a SpermsegError? Mutates real files and reads each in a process with limits.

    python benchmarks/trust/fuzz.py --count 10000
    python benchmarks/trust/fuzz.py --kind png --seed 1234 --count 1

Prints a table of the outcomes of each kind of file and, as its last line, one JSON object of the figures. The second
command repeats one mutation, which depends only on its kind and seed.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))  # the mutations are those of the tests

from laws.bounded_child import BoundedChild, Outcome
from laws.kinds import KINDS
from laws.mutations import mutate

from spermseg.table.results import reason_kind

RESULTS = ("accepted", "rejected", "failed")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Mutate real files and read them."""

    count: int = 10_000
    """Number of mutations, the same for each kind."""
    kind: Literal["all", *KINDS] = "all"  # type: ignore[valid-type]
    """Kind of file; `all` takes all kinds in turn."""
    seed: int = 0
    """Seed of the first mutation; each next one of a kind adds 1."""
    keep: Path | None = None
    """A folder for the files that caused a failure."""


def cases(options: Options) -> Iterator[tuple[str, int]]:
    """Yield the (kind, seed) of each mutation."""
    kinds = KINDS if options.kind == "all" else (options.kind,)
    for number in range(options.count):
        yield kinds[number % len(kinds)], options.seed + number // len(kinds)


def distinct(outcomes: Sequence[Outcome]) -> set[str]:
    """Return the kinds of reasons, as a receipt counts them."""
    return {reason_kind(reason) for outcome in outcomes for reason in outcome.reasons}


def print_table(by_kind: dict[str, list[Outcome]]) -> None:
    """Print the outcomes of each kind, and the seeds that failed."""
    print(f"{'kind':<8} {'accepted':>8} {'rejected':>8} {'failed':>6} {'reasons':>7} {'slowest':>8} {'memory':>8}")
    for kind, outcomes in by_kind.items():
        counts = [sum(outcome.name == name for outcome in outcomes) for name in RESULTS]
        slowest, most = max(one.seconds for one in outcomes), max(one.peak_mib for one in outcomes)
        print(
            f"{kind:<8} {counts[0]:>8} {counts[1]:>8} {counts[2]:>6} {len(distinct(outcomes)):>7} "
            f"{slowest * 1000:>5.0f} ms {most:>4.0f} MiB"
        )
    for outcome in (one for outcomes in by_kind.values() for one in outcomes if one.failure):
        print(f"{outcome.kind} seed {outcome.seed}: {outcome.failure}")


def main() -> None:
    """Mutate, read, print."""
    options = tyro.cli(Options)
    by_kind: dict[str, list[Outcome]] = {}
    started = time.perf_counter()
    with BoundedChild() as child:
        for kind, seed in tqdm(cases(options), total=options.count, desc="reading", unit="file", mininterval=1):
            data = mutate(kind, seed)
            outcome = child.outcome(kind, seed, data)
            by_kind.setdefault(kind, []).append(outcome)
            if outcome.failure and options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{seed}.{kind}").write_bytes(data)
    print_table(by_kind)
    outcomes = [outcome for several in by_kind.values() for outcome in several]
    figures = {
        "mutations": len(outcomes),
        **{name: sum(outcome.name == name for outcome in outcomes) for name in RESULTS},
        "distinct_reasons": len(distinct(outcomes)),
        "slowest_ms": round(1000 * max(outcome.seconds for outcome in outcomes)),
        "most_memory_mib": round(max(outcome.peak_mib for outcome in outcomes)),
        "seconds": round(time.perf_counter() - started),
        "failed_seeds": [f"{outcome.kind}:{outcome.seed}" for outcome in outcomes if outcome.failure],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
