"""What uploads that crash, hang or starve their decoder may cost a run. No Ray.

Whoever may upload can make a thousand pictures that hang for a minute each, and names their groups in an archive of
his own. So the time that is lost to such pictures is counted, for each group and for all, and has an end.
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
    """There was no time for a trial, or the picture does no harm. It may be whole."""
    BRIEFLY = 1
    AT_LENGTH = 2


def how_far(reason: str) -> Tried:
    """Return how far a picture was tried by itself that was rejected for this reason."""
    if reason.startswith((CRASHED, STRANGE)):
        return Tried.AT_LENGTH
    return Tried.BRIEFLY if reason.startswith(BRIEFLY_TRIED) else Tried.NEVER


@dataclass(frozen=True, kw_only=True)
class LossLimits:
    """How long pictures that end their process may hold up a run, the starts of new processes included.

    Brief and full trials have so long each. A picture that is under way when a limit is reached is tried to its end.
    One that does no harm costs nothing here, however long it takes.
    """

    group_s: float = 600
    """Limit of one group. Beyond it, pictures of the group that need isolation are rejected."""
    run_s: float = 1800
    """Limit of all groups and all workers together."""

    def __post_init__(self) -> None:
        if not (self.group_s > 0 and self.run_s > 0):
            raise ConfigError(f"got limits of {self.group_s} s a group, {self.run_s} s a run; more than 0 is needed")


class Losses(Protocol):
    """Counts what is lost: `LossCount`, or what stands for one in another process."""

    def refusal(self, group: str | None, trial: Trial) -> str | None:
        """Return why no picture of a group is given such a trial any more; None where one may be."""

    def lose(self, group: str | None, trial: Trial, seconds: float) -> None:
        """Note the time that the trial of a picture of a group took from all others."""

    def forgive(self, group: str | None, trial: Trial, seconds: float) -> None:
        """Take that back for the group, whose picture was found to be whole; the run has lost it all the same."""


class LossCount:
    """What a run has lost so far. A `Losses`."""

    def __init__(self, limits: LossLimits) -> None:
        self._limits = limits
        self._of_groups: defaultdict[tuple[str | None, Trial], float] = defaultdict(float)
        self._of_run: defaultdict[Trial, float] = defaultdict(float)

    def refusal(self, group: str | None, trial: Trial) -> str | None:
        """Return why no picture of a group is given such a trial any more; None where one may be."""
        lost, limits = self._of_groups[group, trial], self._limits
        if lost >= limits.group_s:
            return _refusal("pictures of its group", limits.group_s, trial)
        little = lost < LITTLE_SHARE * limits.group_s
        allowed = limits.run_s * (1 if little else 1 - KEPT_SHARE)
        return _refusal("other pictures", allowed, trial) if self._of_run[trial] >= allowed else None

    def lose(self, group: str | None, trial: Trial, seconds: float) -> None:
        """Note the time that the trial of a picture of a group took from all others."""
        self._of_groups[group, trial] += seconds
        self._of_run[trial] += seconds

    def forgive(self, group: str | None, trial: Trial, seconds: float) -> None:
        """Take that back for the group, whose picture was found to be whole; the run has lost it all the same."""
        self._of_groups[group, trial] -= seconds


def _refusal(whose: str, seconds: float, trial: Trial) -> str:
    how = NOT_TRIED if trial is Trial.BRIEF else BRIEFLY_TRIED
    return f"{how}: {whose} crashed or hung the decoder for {seconds:g} s; --retry-rejected tries it again"
