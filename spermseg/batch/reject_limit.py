"""The limit of rejected uploads. If a whole night is rejected, the camera is broken or a key is invalid."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from spermseg.errors import ConfigError, TooManyRejectedError
from spermseg.table.receipt import Receipt

SHOWN_REASONS = 3


@dataclass(frozen=True, kw_only=True)
class RejectLimit:
    """The most uploads of a run that may be rejected: a share or a count, one of them."""

    percent: float | None = None
    """Share of the planned uploads, 0-100."""
    count: int | None = None
    """Number of uploads."""

    def __post_init__(self) -> None:
        if (self.percent is None) == (self.count is None):
            raise ConfigError("got no limit of rejected uploads, or both; a share or a count is needed")
        if (self.percent is not None and not 0 <= self.percent <= 100) or (self.count is not None and self.count < 0):
            raise ConfigError(f"got a limit of {self} rejected; a share of 0% to 100% or a count is needed")

    def __str__(self) -> str:
        return f"{self.count}" if self.percent is None else f"{self.percent:g}%"

    def allows(self, rejected: int, planned: int) -> bool:
        """Whether a run with these numbers of rejected and planned uploads keeps the limit."""
        most = self.count if self.percent is None else self.percent / 100 * planned
        return most is not None and rejected <= most


def read_reject_limit(text: str) -> RejectLimit:
    """Parse a limit: `20%` or `500`.

    Raises:
        ConfigError: the text is neither a share of 0% to 100% nor a count.

    >>> read_reject_limit("20%"), read_reject_limit("500")
    (RejectLimit(percent=20.0, count=None), RejectLimit(percent=None, count=500))
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(%?)", text.strip(), re.ASCII)
    if found and found[2]:
        return RejectLimit(percent=float(found[1]))
    if found and found[1].isdigit():
        return RejectLimit(count=int(found[1]))
    raise ConfigError(
        f"got {text!r} as the most that may be rejected; give a share such as 20%, or a count such as 500"
    )


def check_rejected(receipts: Iterable[Receipt], limit: RejectLimit) -> None:
    """Check that no run rejected more than the limit.

    Raises:
        TooManyRejectedError: a run did. Its rows stay, and it is finished.
    """
    for receipt in receipts:
        if not limit.allows(receipt.rejected, receipt.planned):
            reasons = sorted(receipt.reasons.items(), key=lambda item: (-item[1], item[0]))
            shown = "; ".join(f"{count} x {reason}" for reason, count in reasons[:SHOWN_REASONS])
            raise TooManyRejectedError(
                f"run {receipt.run_id} rejected {receipt.rejected} of {receipt.planned}, more than the limit of "
                f"{limit}: {shown}; all rows are written; mend the cause, then --retry-rejected tries these again"
            )
