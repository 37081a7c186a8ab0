"""Tables that others hold: what their lease says."""

import json
from dataclasses import replace
from typing import Any

from spermseg.storage.filesystem import Location
from spermseg.table.lease_holder import Holder, encode_holder, this_process


def holder_of(place: Location) -> dict[str, Any]:
    return dict(json.loads(place.child("lock.json").read_bytes()))


def foreign(place: Location, **changes: Any) -> Holder:
    """Have the lease held by a process that cannot be asked whether it runs."""
    holder = replace(this_process(), host="head-2.clinic", boot="another", process=77, since="2026-01-02", **changes)
    place.child("lock.json").write_bytes(encode_holder(holder))
    return holder
