"""Random rows of a table or a plan, whose units differ in size."""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate


def draw_rows(unit_sizes: Sequence[int], count: int, seed: int) -> Iterator[tuple[int, int]]:
    """Yield the (unit, place in the unit) of up to `count` different rows. All rows are equally likely.

    >>> sorted(draw_rows([2, 1], count=5, seed=0))
    [(0, 0), (0, 1), (1, 0)]
    """
    ends = list(accumulate(unit_sizes))
    rows = sum(unit_sizes)
    for row in random.Random(seed).sample(range(rows), min(count, rows)):  # noqa: S311 (no secret)
        unit = bisect_right(ends, row)
        yield unit, row - ends[unit] + unit_sizes[unit]
