"""A reader that breaks the law, so that whoever looks after it can be seen to notice."""

from support.hostile_decoder import DEEDS


def read_planted(kind: str, data: bytes) -> list[str]:
    """Do to the process what the file says."""
    DEEDS[data]()
    return []
