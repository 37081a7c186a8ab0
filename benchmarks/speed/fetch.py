"""How much do parallel reads save with a slow server? Reads the files of a unit one at a time, and several at a time.

    python benchmarks/speed/fetch.py --files 64 --delay-ms 50

The server is moto, behind a proxy that delays answers. Prints a table and, as its last line, one JSON object.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import boto3
import tyro
from moto.server import ThreadedMotoServer

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from conftest import KEYS
from support.fault_proxy import Fault, FaultProxy, Kind

from spermseg.batch.listing import list_uploads
from spermseg.batch.worker import fetch
from spermseg.storage.filesystem import Location
from spermseg.table.plan import Identity, Planned


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read the files of a unit from a slow server."""

    files: int = 64
    """Files of the unit."""
    kb: int = 150
    """Size of each file, kB."""
    delay_ms: float = 50
    """Delay before the server answers."""
    repeats: int = 5
    """Measurements of both ways, in turn."""


def read(planned: list[Planned], source: Location, at_once: int) -> float:
    """Return the seconds to read a unit, with at most this number of reads at once."""
    fetch.READ_AT_ONCE = at_once
    started = time.perf_counter()
    found = list(fetch.fetch_all(planned, source))
    seconds = time.perf_counter() - started
    if any(one.reason for one in found):
        raise SystemExit(f"not all files could be read: {found[0].reason}")
    return seconds


def main() -> None:
    """Start the server, write, read, print."""
    options = tyro.cli(Options)
    os.environ.update(KEYS)
    ways, seconds = (1, fetch.READ_AT_ONCE), {1: [], fetch.READ_AT_ONCE: []}  # type: ignore[var-annotated]
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        endpoint_url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        boto3.client("s3", endpoint_url=endpoint_url).create_bucket(Bucket="clinic")
        for number in range(options.files):
            Location(f"s3://clinic/{number}.jpg", endpoint_url).write_bytes(os.urandom(1000 * options.kb))
        with FaultProxy(endpoint_url) as proxy:
            source = Location("s3://clinic", proxy.endpoint_url)
            planned = list(list_uploads(source, Identity(model_sha256="", recipe_sha256="")))
            proxy.inject(Fault(kind=Kind.DELAY, on="GET", times=None, delay_s=options.delay_ms / 1000))
            for _ in range(options.repeats):
                for at_once in ways:
                    seconds[at_once].append(read(planned, source, at_once))
    finally:
        server.stop()
    ratios = [slow / fast for slow, fast in zip(*seconds.values(), strict=True)]
    print(f"{options.files} files of {options.kb} kB, each answered {options.delay_ms:g} ms late")
    print(f"{'at once':>8}{'seconds':>9}")
    for at_once in ways:
        print(f"{at_once:>8}{median(seconds[at_once]):>9.2f}")
    print(f"{median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})")
    print(json.dumps({"files": options.files, "delay_ms": options.delay_ms, "seconds": seconds, "ratios": ratios}))


if __name__ == "__main__":
    main()
