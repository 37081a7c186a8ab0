"""Annotation files whose structure is wrong: what one gets from a broken exporter, or from somebody who means it."""

import base64
import binascii
import json
import random
import re
from collections.abc import Callable
from typing import Any

Slot = tuple[Any, Any]
"""A list or an object, and the index or key of one of its values."""

RAW = "raw-token:"
"""Begins a string that stands for JSON which `json.dumps` would not write."""
HOSTILE = (
    *(None, True, False, "", "x", "\ud800", "\0", "a\nb", "🧬" * 50, "a" * 5000, [], {}, [[]], {"": {}}),
    *(0, -1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400, 999_999),
    *(float("nan"), float("inf"), -float("inf")),
    *(f"{RAW}1e999", f"{RAW}-1e999", f"{RAW}" + "9" * 5000, f"{RAW}0." + "3" * 3000),
)
FLOOD = 4 << 20
"""Characters of a list that is made absurdly long."""
DEPTHS = (2, 20, 190, 300, 5000)


def mutate_json(rng: random.Random, source: bytes, mutate_png: Callable[[bytes], bytes]) -> bytes:
    """Return a JSON file with one to four faults in its structure, or in a mask inside it."""
    content = [json.loads(source)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        slots = list(_slots(content))
        what = rng.random()
        if what < 0.03:
            _flood(rng, slots)
            break  # what came after would multiply it
        if what < 0.25:
            _damage_mask(slots, mutate_png)
        else:
            rng.choice(MUTATORS)(rng, *rng.choice(slots))
        content = content or [None]
    ascii_only = rng.random() < 0.5
    text = json.dumps(content[0], ensure_ascii=ascii_only)
    text = re.sub(rf'"{RAW}([^"]*)"', r"\1", text)
    mark = b"\xef\xbb\xbf" if rng.random() < 0.1 else b""
    return mark + text.encode("utf-8", "surrogatepass")


def _slots(container: Any) -> list[Slot]:
    """Return every value below a container, as where it is."""
    keys = list(container) if isinstance(container, dict) else range(len(container))
    found = []
    for key in keys:
        found.append((container, key))
        if isinstance(container[key], list | dict):
            found += _slots(container[key])
    return found


def _replace(rng: random.Random, container: Any, key: Any) -> None:
    container[key] = json.loads(json.dumps(rng.choice(HOSTILE)))  # a copy: later faults change it


def _remove(rng: random.Random, container: Any, key: Any) -> None:
    del container[key]


def _retype(rng: random.Random, container: Any, key: Any) -> None:
    """Turn a value into one of another type that means the same to a person."""
    value = container[key]
    wrapped = [[value], {"value": value}, json.dumps(value)]
    if isinstance(value, list):
        wrapped.append({str(n): item for n, item in enumerate(value)})
    if isinstance(value, dict):
        wrapped.append(list(value.values()))
    container[key] = rng.choice(wrapped)


def _nest(rng: random.Random, container: Any, key: Any) -> None:
    depth = rng.choice(DEPTHS)
    container[key] = f"{RAW}{'[' * depth}0{']' * depth}"


def _repeat(rng: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, list):
        container[key:key] = [container[key]] * rng.choice((1, 30))
    else:
        container[f"{key} "] = container[key]


def _swap(rng: random.Random, container: Any, key: Any) -> None:
    other = rng.choice(list(container) if isinstance(container, dict) else range(len(container)))
    container[key], container[other] = container[other], container[key]


def _cut_list(rng: random.Random, container: Any, key: Any) -> None:
    value = container[key]
    if isinstance(value, list | str) and value:
        container[key] = value[: rng.randrange(len(value))]
    elif isinstance(value, int | float):
        container[key] = value * rng.choice((-1, 0.1, 1000, 10**12))


MUTATORS = (_replace, _replace, _replace, _remove, _retype, _nest, _repeat, _swap, _cut_list)


def _damage_mask(slots: list[Slot], mutate_png: Callable[[bytes], bytes]) -> None:
    """Damage the first picture inside, where there is one."""
    for container, key in slots:
        if key == "mask" and isinstance(container[key], str):
            try:
                png = base64.b64decode(container[key])
            except (binascii.Error, ValueError):
                return
            container[key] = base64.b64encode(mutate_png(png)).decode("ascii")
            return


def _flood(rng: random.Random, slots: list[Slot]) -> None:
    """Make a list of points or numbers absurdly long: what is done for each of them may then take all memory."""
    lists = [(container, key) for container, key in slots if isinstance(container[key], list) and container[key]]
    if lists:
        container, key = rng.choice(lists)
        container[key] = container[key] * (FLOOD // len(json.dumps(container[key])))
