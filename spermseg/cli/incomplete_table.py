"""Messages and exit status for a table with damaged files."""

import sys
from collections.abc import Collection

from spermseg.cli.terminal import say


def warn_of_damage(damage: Collection[str], so: str) -> int:
    """Print a line for each damaged file, and then the consequence.

    Args:
        damage: a line for each damaged file.
        so: the consequence.

    Returns:
        The exit status: 1 if a file is damaged, else 0.
    """
    for line in damage:
        say(line, to=sys.stderr)
    if damage:
        say(f"{so}: {len(damage)} of the table's files could not be read", to=sys.stderr)
    return 1 if damage else 0
