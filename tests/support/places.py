"""Short words for what tests of storage do all the time."""

from spermseg.storage.filesystem import Location


def keys(place: Location) -> list[str]:
    return [item.key for item in place.list()]


def put(place: Location, *names: str) -> None:
    for name in names:
        place.child(name).write_bytes(name.encode())
