"""Is obstore (Rust's object_store) faster than the S3 backend of spermseg over boto3? Both do the same work in turn.

    pip install obstore==0.12.1
    python benchmarks/speed/s3_clients.py --server moto
    python benchmarks/speed/s3_clients.py --server radosgw --upload-mb 48

The server is a separate process, so CPU seconds are those of the client alone. Prints a table and, as its last line,
one JSON object.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Literal

import boto3
import tyro

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import obstore
from conftest import KEYS, RADOSGW
from obstore.store import S3Store

from spermseg.storage.open_files import PART
from spermseg.storage.s3.backend import S3Backend

BUCKET, WHOLE, UPLOADED, LISTED = "clinic", "archive.tar", "uploaded.bin", "listed"
CONNECTIONS = 16
"""Connections that fill the bucket."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read ranges, list, write under conditions and upload in parts, with both clients."""

    server: Literal["moto", "radosgw"] = "moto"
    """moto, which imitates S3, or Ceph's S3 server."""
    members: int = 1000
    """Ranges of one object that are read."""
    member_kb: int = 200
    """Size of each range, kB."""
    threads: int = 8
    """Threads that read at the same time."""
    keys: int = 20_000
    """Listed keys, 200 a folder."""
    writes: int = 200
    """Objects of 1 kB that are created if absent, and then replaced if unchanged."""
    upload_mb: int = 200
    """Size of an object that is uploaded in parts of 16 MiB, MB."""
    rounds: int = 3
    """Measurements of each client, in turn."""


@contextmanager
def started(server: str) -> Iterator[str]:
    """Start a server; yield its endpoint."""
    with tempfile.TemporaryDirectory() as folder:
        if server == "radosgw":
            command = ["bash", str(RADOSGW)]
            try:
                yield subprocess.run(
                    [*command, "start", folder], check=True, capture_output=True, text=True
                ).stdout.split()[-1]
            finally:
                subprocess.run([*command, "stop", folder], check=True)
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    for _ in range(300):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit("moto did not start")


def fill(endpoint_url: str, options: Options) -> str:
    """Create and fill the bucket; return the etag of the object whose ranges are read."""
    client = boto3.client("s3", endpoint_url=endpoint_url)
    client.create_bucket(Bucket=BUCKET)
    backend = S3Backend(endpoint_url)
    backend.write(f"{BUCKET}/{WHOLE}", os.urandom(1000 * options.member_kb * options.members), False, None)

    def put(number: int) -> None:
        backend.write(f"{BUCKET}/{LISTED}/{number // 200:04}/{number:06}.jpg", b"x", False, None)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(put, range(options.keys)))
    return backend.stat(f"{BUCKET}/{WHOLE}")[1]


class Ours:
    """The backend over boto3."""

    name = "spermseg over boto3"

    def __init__(self, endpoint_url: str) -> None:
        self._backend = S3Backend(endpoint_url)

    def read(self, start: int, size: int, etag: str) -> int:
        """Return the length of a range of the object with this etag."""
        return len(self._backend.read_range(f"{BUCKET}/{WHOLE}", start, size, etag))

    def listed(self) -> int:
        """Return how many keys there are."""
        return sum(1 for _ in self._backend.list_objects(f"{BUCKET}/{LISTED}"))

    def write(self, key: str, data: bytes) -> None:
        """Make an object that is not there, then replace it as it was seen."""
        path = f"{BUCKET}/{key}"
        self._backend.write(path, data, True, None)
        self._backend.write(path, data, False, self._backend.stat(path)[1])

    def upload(self, data: bytes) -> None:
        """Write an object in parts."""
        parts = self._backend.begin(f"{BUCKET}/{UPLOADED}")
        for start in range(0, len(data), PART):
            parts.add(data[start : start + PART])
        parts.finish()


class Obstore:
    """Rust's object_store."""

    def __init__(self, endpoint_url: str, at_once: int = 1) -> None:
        self.name, self._at_once = f"obstore, {at_once} part(s) at once", at_once
        self._store: Any = S3Store(BUCKET, endpoint=endpoint_url, client_options={"allow_http": True})

    def read(self, start: int, size: int, etag: str) -> int:
        """Return the length of a range of the object with this etag."""
        options: Any = {"range": (start, start + size), "if_match": f'"{etag}"'}
        return len(obstore.get(self._store, WHOLE, options=options).bytes().to_bytes())

    def listed(self) -> int:
        """Return how many keys there are."""
        return sum(1 for _ in chain.from_iterable(obstore.list(self._store, LISTED, chunk_size=1000)))

    def write(self, key: str, data: bytes) -> None:
        """Make an object that is not there, then replace it as it was seen."""
        obstore.put(self._store, key, data, mode="create")
        etag = obstore.head(self._store, key)["e_tag"]
        try:
            obstore.put(self._store, key, data, mode={"e_tag": etag})
        except obstore.exceptions.PreconditionError:  # Ceph takes it bare only
            obstore.put(self._store, key, data, mode={"e_tag": str(etag).strip('"')})

    def upload(self, data: bytes) -> None:
        """Write an object in parts."""
        obstore.put(self._store, UPLOADED, data, use_multipart=True, chunk_size=PART, max_concurrency=self._at_once)


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and the CPU seconds of some work."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def works(client: Ours | Obstore, etag: str, options: Options, round_: int) -> dict[str, Callable[[], object]]:
    """Return the measured work by name."""
    size = 1000 * options.member_kb
    data = os.urandom(1_000_000 * options.upload_mb)

    def read() -> None:
        with ThreadPoolExecutor(options.threads) as pool:
            lengths = list(pool.map(lambda n: client.read(n * size, size, etag), range(options.members)))
        if lengths != [size] * options.members:
            raise SystemExit("not all was read")

    def listed() -> None:
        if client.listed() != options.keys:
            raise SystemExit("not all was listed")

    def write() -> None:
        for number in range(options.writes):
            client.write(f"written/{client.name}/{round_}/{number}", bytes(1000))

    return {"ranges": read, "listing": listed, "conditions": write, "parts": lambda: client.upload(data)}


def main() -> None:
    """Start the server, fill it, measure, print."""
    options = tyro.cli(Options)
    os.environ.update(KEYS)
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with started(options.server) as endpoint_url:
        etag = fill(endpoint_url, options)
        clients = (Ours(endpoint_url), Obstore(endpoint_url), Obstore(endpoint_url, 8))
        for round_ in range(options.rounds):
            for client in clients:
                for name, work in works(client, etag, options, round_).items():
                    found.setdefault(name, {}).setdefault(client.name, []).append(measured(work))
    print(f"{'':<12}{'client':<30}{'wall s':>8}{'CPU s':>8}")
    for name, by_client in found.items():
        for client_name, times in by_client.items():
            wall, cpu = (median(column) for column in zip(*times, strict=True))
            print(f"{name:<12}{client_name:<30}{wall:>8.2f}{cpu:>8.2f}")
    print(json.dumps({"server": options.server, "seconds": found}))


if __name__ == "__main__":
    main()
