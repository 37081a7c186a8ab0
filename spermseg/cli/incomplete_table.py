"""What is told of a table some of whose files cannot be read."""

import sys
from collections.abc import Collection

from spermseg.cli.terminal import say


def warn_of_damage(damage: Collection[str], so: str) -> int:
    """Print a line for each damaged file, and what follows, where there are any.

    Returns:
        The exit status: 1 where there are any, or else 0.
    """
    for line in damage:
        say(line, to=sys.stderr)
    if damage:
        say(f"{so}: {len(damage)} of the table's files could not be read", to=sys.stderr)
    return 1 if damage else 0
