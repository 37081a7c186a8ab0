"""Limits of the time that a run loses to uploads that crash, hang or starve their decoder. Without Ray.

Anyone who may upload can make a thousand pictures that hang for a minute each, and can choose their groups by the
folder names in an archive. So the lost time is counted and limited, for each group and for the run.
"""

from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

from spermseg.errors import ConfigError

CRASHED = "crashed the decoder"
"""Start of the reject reason of a picture that ended a process which had segmented no other picture."""
STRANGE = "could not be segmented"
"""Start of the reject reason of a picture that shows a fault of the software."""
BRIEFLY_TRIED = "not tried for long"
"""Start of the reject reason of a picture that failed a brief trial and got no full trial, for lack of time."""
NOT_TRIED = "not tried"
"""Start of the reject reason of a picture that got no trial. `BRIEFLY_TRIED` begins with the same words."""
KEPT_SHARE = 0.5
"""Share of a run's time limit that is reserved for groups that have lost little time."""
LITTLE_SHARE = 0.1
"""Share of a group's time limit below which the group has lost little time."""


class Trial(StrEnum):
    """How a picture is tried in isolation. Each picture of a unit gets a brief trial, then a full one if it fails."""

    BRIEF = "brief"
    FULL = "full"


class Tried(IntEnum):
    """How far a rejected picture was tried in isolation. The next retry begins with those that were tried least."""

    NEVER = 0
    """There was no time for a trial, or the picture ended no process. It may be sound."""
    BRIEFLY = 1
    AT_LENGTH = 2


def how_far(reason: str) -> Tried:
    """Return how far a picture with this reject reason was tried in isolation."""
    if reason.startswith((CRASHED, STRANGE)):
        return Tried.AT_LENGTH
    return Tried.BRIEFLY if reason.startswith(BRIEFLY_TRIED) else Tried.NEVER


@dataclass(frozen=True, kw_only=True)
class LossLimits:
    """The time that a run may lose to pictures that end their process. It includes the starts of new processes.

    Brief and full trials have separate limits of this size. A trial that runs when a limit is reached is completed. A
    picture that does not end its process counts nothing, however long it takes.
    """

    group_s: float = 600
    """Limit of one group, s. Once it is reached, the other pictures of the group that need isolation are rejected."""
    run_s: float = 1800
    """Limit of all groups and all workers together, s."""

    def __post_init__(self) -> None:
        if not (self.group_s > 0 and self.run_s > 0):
            raise ConfigError(f"got limits of {self.group_s} s a group, {self.run_s} s a run; more than 0 is needed")


class Losses(Protocol):
    """Counts the lost time: a `LossCount`, or a proxy of one in another process."""

    def refusal(self, group: str | None, trial: Trial) -> str | None:
        """Return why pictures of a group get no more trials of a kind; None if they do."""

    def lose(self, group: str | None, trial: Trial, seconds: float) -> None:
        """Count time that was lost to the trial of a picture of a group."""

    def forgive(self, group: str | None, trial: Trial, seconds: float) -> None:
        """Subtract lost time from the group, since its picture is sound. It stays lost for the run."""


class LossCount:
    """The time that a run has lost so far. Implements `Losses`."""

    def __init__(self, limits: LossLimits) -> None:
        self._limits = limits
        self._of_groups: defaultdict[tuple[str | None, Trial], float] = defaultdict(float)
        self._of_run: defaultdict[Trial, float] = defaultdict(float)

    def refusal(self, group: str | None, trial: Trial) -> str | None:
        """Return why pictures of a group get no more trials of a kind; None if they do."""
        lost, limits = self._of_groups[group, trial], self._limits
        if lost >= limits.group_s:
            return _refusal("pictures of its group", limits.group_s, trial)
        little = lost < LITTLE_SHARE * limits.group_s
        allowed = limits.run_s * (1 if little else 1 - KEPT_SHARE)
        return _refusal("other pictures", allowed, trial) if self._of_run[trial] >= allowed else None

    def lose(self, group: str | None, trial: Trial, seconds: float) -> None:
        """Count time that was lost to the trial of a picture of a group."""
        self._of_groups[group, trial] += seconds
        self._of_run[trial] += seconds

    def forgive(self, group: str | None, trial: Trial, seconds: float) -> None:
        """Subtract lost time from the group, since its picture is sound. It stays lost for the run."""
        self._of_groups[group, trial] -= seconds


def _refusal(whose: str, seconds: float, trial: Trial) -> str:
    how = NOT_TRIED if trial is Trial.BRIEF else BRIEFLY_TRIED
    return f"{how}: {whose} crashed or hung the decoder for {seconds:g} s; --retry-rejected tries it again"
