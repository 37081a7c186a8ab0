"""One round of chaos: the command runs, a fault happens at some moment, and the table is compared."""

import random
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
from chaos_stage import NODES, Stage, title
from support.chaos_night import Differences, compare

from spermseg.storage.filesystem import Location
from spermseg.table.plan import Plan
from spermseg.table.receipt import list_runs
from spermseg.table.results import list_units, read_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

EARLIEST, LATEST = -0.1, 0.9
"""Range of the share of finished units at which a fault happens; below 0 is before the units are planned."""
BURST_S, BURST_SHARE = 3.0, 0.3
TASK, ACTOR, AT_WORK = r"^ray::(IDLE|FlatMap)", r"^ray::MapWorker", r"Fetch\w*\)$|\)\.\w+$"
"""Process titles that Ray sets: a worker is idle or shows its task; an actor shows the method that it runs."""
AT_WORK_S, INTO_WORK_S = 0.5, 0.05
"""How long to wait for a busy process before an idle one is killed, and the longest random delay before the kill."""
ROUND_S = 300
"""A round that takes longer counts as hanging."""
TRIES = 3
"""How often a round may be played until its fault happens before the night is over."""
STARTS = 4
"""How often the command may be started in a round."""


class Fault(StrEnum):
    """The fault of a round."""

    WORKER = "worker killed"
    ACTOR = "model's process killed"
    NODE = "node removed"
    DRIVER = "command killed"
    STORAGE = "storage fault burst"

    @classmethod
    def of(cls, seed: int) -> "Fault":
        """Return the fault of a round. Each block of five rounds has all five faults, in a random order."""
        deck, number = divmod(seed, len(cls))
        return random.Random(deck).sample(list(cls), len(cls))[number]


@dataclass(kw_only=True)
class Round:
    """The outcome of a round."""

    seed: int
    fault: Fault
    struck: bool = False
    """Whether the fault happened before the night was over."""
    share: float = 0.0
    """Share of the units that were finished at that moment."""
    starts: int = 1
    """How often the command was started."""
    differences: Differences = field(default_factory=Differences)
    again: int = 0
    """Decoded pictures in addition to those of a night without faults."""
    trouble: str = ""
    """Why the round did not end as it should; empty where it did."""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the table differs, or the round did not end as it should."""
        return bool(self.differences or self.trouble)

    def __str__(self) -> str:
        what = f"{self.fault} at {self.share:.0%}" if self.struck else f"{self.fault}: too late"
        said = ", ".join(f"{number} {name}" for name, number in asdict(self.differences).items())
        tail = f"; FAILED: {self.trouble or 'the tables differ'}" if self.failed else ""
        return f"seed {self.seed}: {what}; {said}; {self.again} again, {self.starts} starts, {self.seconds:.0f} s{tail}"


class TroubleError(Exception):
    """The round did not end as it should."""


class Play:
    """A running round."""

    def __init__(self, stage: Stage, name: str, dice: random.Random) -> None:
        self.stage, self.name, self.dice = stage, name, dice
        self.log = stage.folder / f"{name}.log"
        self.ends = time.monotonic() + ROUND_S
        self.driver = stage.segment(name, self.log)
        self.starts = 1
        self.killed = False
        self.units = 0  # of the plan, once there is one

    def strike(self, fault: Fault, moment: float) -> float | None:
        """Wait until this share of the units is finished, and cause the fault. Return the share; None if too late."""
        while not (self._share() >= moment if moment >= 0 else self._holds_table()):
            if not self._goes_on():
                return None
        share = self._share()
        deeds: dict[Fault, Callable[[], bool]] = {
            Fault.WORKER: lambda: self._kill(TASK),
            Fault.ACTOR: lambda: self._kill(ACTOR),
            Fault.NODE: self._remove_node,
            Fault.DRIVER: self._kill_driver,
            Fault.STORAGE: self._burst,
        }
        return share if deeds[fault]() else None

    def finish(self) -> None:
        """Wait for the end of the command. Start the command again where it ended before the night was finished."""
        while (status := self._wait()) != 0:
            if self.starts == STARTS or not (self.killed or status == 1):
                raise TroubleError(f"exit status {status} at start {self.starts}: {self._last_line()}")
            self.driver = self.stage.segment(self.name, self.log)
            self.starts += 1
            self.killed = False

    def close(self) -> None:
        """End the command's process."""
        self.driver.kill()
        self.driver.wait()

    def _holds_table(self) -> bool:
        return self.stage.place(self.name).child("lock.json").exists()

    def _share(self) -> float:
        """Return the share of finished units."""
        out = self.stage.place(self.name)
        if not self.units:
            self.units = sum(Plan(RunFolder(out, run_id).plan).units for run_id in list_runs(out))
        return len(list_units(out)) / self.units if self.units else 0.0

    def _goes_on(self) -> bool:
        time.sleep(0.05)
        if time.monotonic() > self.ends:
            raise TroubleError(f"not done after {ROUND_S} s: {self._last_line()}")
        return self.driver.poll() is None

    def _wait(self) -> int:
        while self._goes_on():
            pass
        return int(self.driver.returncode)

    def _last_line(self) -> str:
        lines = re.split(r"[\r\n]+", self.log.read_text(errors="replace").strip())
        return next((line for line in reversed(lines) if line.startswith("spermseg:")), lines[-1])[:300]

    def _kill(self, pattern: str) -> bool:
        until = time.monotonic() + AT_WORK_S
        while self._goes_on():
            found = self.stage.ray_processes(pattern)
            at_work = [one for one in found if re.search(AT_WORK, title(one))]
            if at_work or (found and time.monotonic() > until):
                time.sleep(self.dice.uniform(0, INTO_WORK_S))
                with suppress(psutil.Error):
                    self.dice.choice(at_work or found).kill()
                    return True
        return False

    def _remove_node(self) -> bool:
        node = self.dice.choice(sorted(self.stage.cluster.worker_nodes, key=lambda one: one.unique_id))
        self.stage.cluster.remove_node(node, allow_graceful=False)
        return True

    def _kill_driver(self) -> bool:
        self.driver.send_signal(signal.SIGKILL)
        self.killed = self.driver.wait() == -signal.SIGKILL
        return self.killed

    def _burst(self) -> bool:
        with self.stage.proxy.burst(self.dice.randrange(2**32), BURST_SHARE):
            before = self.stage.proxy.faults.total()
            until = time.monotonic() + BURST_S
            while self._goes_on() and time.monotonic() < until:
                pass
        return self.stage.proxy.faults.total() > before


def play_round(stage: Stage, seed: int, calm: list[dict[str, Any]], calm_decoded: int) -> Round:
    """Play one round and compare its table. If the night ended before the fault, play it again with an earlier one."""
    for number in range(TRIES):
        outcome = _play_once(stage, seed, number, calm, calm_decoded)
        if outcome.struck or outcome.failed:
            break
    return outcome


def _play_once(stage: Stage, seed: int, number: int, calm: list[dict[str, Any]], calm_decoded: int) -> Round:
    started = time.monotonic()
    outcome = Round(seed=seed, fault=Fault.of(seed))
    play = Play(stage, f"round-{seed}" + f"-again-{number}" * bool(number), random.Random(seed))
    try:
        share = play.strike(outcome.fault, play.dice.uniform(EARLIEST, LATEST) / 2**number)
        outcome.struck, outcome.share = share is not None, share or 0.0
        play.finish()
        _, wrong = verify(stage.place(play.name))
        outcome.trouble = f"verify: {wrong[0]}" if wrong else ""
    except TroubleError as error:
        outcome.trouble = str(error)
    finally:
        play.close()
    while len(stage.cluster.worker_nodes) < NODES:
        stage.add_node()
    outcome.differences = compare(calm, rows_of(stage.place(play.name)))
    outcome.again = decoded(play.log) - calm_decoded
    outcome.starts = play.starts
    outcome.seconds = time.monotonic() - started
    return outcome


def play_calm(stage: Stage) -> tuple[list[dict[str, Any]], int]:
    """Return (the rows, the number of decoded pictures) of a night without faults."""
    play = Play(stage, "calm", dice=random.Random(0))
    try:
        play.finish()
    finally:
        play.close()
    return rows_of(stage.place(play.name)), decoded(play.log)


def rows_of(out: Location) -> list[dict[str, Any]]:
    """Return all rows of a table."""
    return [row for table in read_units(out) for row in table.to_pylist()]


def decoded(log: Path) -> int:
    """Return how many pictures were decoded in a round."""
    notes = log.with_suffix(".decoded")
    return len(notes.read_text().splitlines()) if notes.exists() else 0
