"""How long does planning take? Plans a first night of many uploads, and a second one that has nearly all of them done.

    python benchmarks/speed/planning.py --uploads 1000000

A small server in a separate process answers S3's listing call and nothing else. The table is a local folder. Nothing is
segmented: a plan with a receipt stands for the first night. Prints a table and, as its last line, one JSON object of
the figures.
"""

import bisect
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

import tyro

NEW = 1000
"""Uploads of the second night that the first one did not plan."""
PAGE = 1000
"""Most keys of a page."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Plan many uploads, and plan again."""

    uploads: int = 100_000
    """Objects in the bucket."""
    patients: int = 5000
    """Folders of the objects."""
    delay_ms: float = 20
    """Delay before the server answers, as of a server that is far away."""
    step: str = ""
    """Internal: the step that this process runs."""
    endpoint_url: str = ""
    """Internal: the server."""
    folder: Path | None = None
    """Internal: the table."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The cost of one step. CPU seconds leave out the server, which runs on the same machine; wall time does not."""

    step: str
    uploads: int
    seconds: float
    cpu_s: float
    peak_mb: int
    """Peak of the resident memory of the process, including imports."""
    imports_mb: int
    """Resident memory before the step."""


def all_keys(options: Options) -> list[str]:
    """Return the sorted keys of the bucket. Its folders differ in size."""
    weights = [1 + number % 17 for number in range(options.patients)]
    total, keys = sum(weights), []
    for number, weight in enumerate(weights):
        count = options.uploads * weight // total
        keys += [f"uploads/patient-{number:05}/2026-11-{n % 28 + 1:02}/field-{n:06}.jpg" for n in range(count)]
    keys += [f"uploads/patient-00000/extra-{n:06}.jpg" for n in range(options.uploads - len(keys))]
    return sorted(keys)


class Bucket(BaseHTTPRequestHandler):
    """S3's listing call."""

    protocol_version = "HTTP/1.1"
    keys: list[str]
    delay_s: float

    def do_GET(self) -> None:
        """Answer with a page."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        time.sleep(self.delay_s)
        body = self.page(asked).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def page(self, asked: dict[str, str]) -> str:
        """Return a page as XML."""
        prefix, after = asked.get("prefix", ""), asked.get("continuation-token") or asked.get("start-after", "")
        most = min(PAGE, int(asked.get("max-keys", PAGE)))
        place = bisect.bisect_right(self.keys, max(after, prefix))
        end = bisect.bisect_left(self.keys, prefix + "\U0010ffff")
        if asked.get("delimiter"):
            names, last = self._folders(prefix, place, end, most)
        else:
            names, last = self.keys[place : min(end, place + most)], min(end, place + most)
        more = last < end
        token = f"<NextContinuationToken>{self.keys[last - 1]}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>clinic</Name><Prefix>{quote(prefix)}</Prefix><KeyCount>{len(names)}</KeyCount>"
            f"<MaxKeys>{most}</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{''.join(map(_entry, names))}</ListBucketResult>"
        )

    def _folders(self, prefix: str, place: int, end: int, most: int) -> tuple[list[str], int]:
        names: list[str] = []
        while place < end and len(names) < most:
            name, slash, _ = self.keys[place][len(prefix) :].partition("/")
            names.append(prefix + name + slash)
            place = bisect.bisect_left(self.keys, names[-1] + "\U0010ffff") if slash else place + 1
        return names, place

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _entry(name: str) -> str:
    if name.endswith("/"):
        return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
    number = zlib.crc32(name.encode())
    return (
        f"<Contents><Key>{escape(name)}</Key><LastModified>2026-11-26T21:07:33.000Z</LastModified>"
        f"<ETag>&quot;{number:032x}&quot;</ETag><Size>{500_000 + number % 1000}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def serve(options: Options, port: Connection) -> None:
    """Serve the bucket until this process is terminated."""
    Bucket.keys, Bucket.delay_s = all_keys(options), options.delay_ms / 1000
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    server.daemon_threads = True
    port.send(server.server_address[1])
    server.serve_forever()


def memory_mb(line: str) -> int:
    """Return a figure of this process's status; `getrusage` would count the parent's memory, too."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in status if text.startswith(line)) // 1024


def measured(step: str, function: Callable[[], int]) -> Measured:
    """Return the cost of a function; the function returns the number of planned uploads."""
    before, wall, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    uploads = function()
    return Measured(
        step=step,
        uploads=uploads,
        seconds=round(time.perf_counter() - wall, 1),
        cpu_s=round(time.process_time() - cpu, 1),
        peak_mb=memory_mb("VmHWM"),
        imports_mb=before,
    )


def run_step(options: Options) -> Measured:
    """Run one step in this process."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from support.dark_cells import night_over

    from spermseg.batch.planning import plan_run
    from spermseg.batch.repair import survey_runs
    from spermseg.storage.filesystem import Location
    from spermseg.table.lease import hold_lease
    from spermseg.table.plan import UNIT_MICROGRAPHS, Plan
    from spermseg.table.receipt import list_runs
    from spermseg.table.run_folder import RunFolder

    out = Location(str(options.folder))
    source = Location("s3://clinic/uploads", options.endpoint_url)
    night = night_over(source, out, b"a model", unit_micrographs=UNIT_MICROGRAPHS)
    if options.step == "forget":
        forget_some(RunFolder(out, next(iter(list_runs(out)))).plan.path)

    def plan() -> int:
        with hold_lease(out, ("benchmark",), take_over=False) as lease:
            run_id = plan_run(night, datetime.now(UTC), lease, survey_runs(night, lease))
        return len(Plan(RunFolder(out, run_id).plan)) if run_id else 0

    def open_plan() -> int:
        plan = Plan(RunFolder(out, run_id).plan)
        digest = hashlib.sha256("".join(plan.unit_ids()).encode())
        return len(plan) if digest else 0

    if options.step in ("open", "forget"):
        run_id = next(iter(list_runs(out)))
        return measured("open the plan, and name its units", open_plan)
    result = measured("plan all" if options.step == "all" else f"plan again, all but {NEW} done", plan)
    pretend_finished(out, next(iter(list_runs(out))))
    return result


def pretend_finished(out: Any, run_id: str) -> None:
    """Write a receipt of a run without unit files."""
    from spermseg.table.plan import Plan
    from spermseg.table.receipt import files_digest, store_receipt
    from spermseg.table.run_folder import RunFolder

    said = {"files_sha256": files_digest([]), "plan_sha256": Plan(RunFolder(out, run_id).plan).seal}
    store_receipt(RunFolder(out, run_id), said)


def forget_some(path: str) -> None:
    """Remove the last uploads from a plan, so that the next plan finds them new."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    kept, left = Path(path + ".kept"), file.metadata.num_rows - NEW
    with pq.ParquetWriter(kept, file.schema_arrow, compression="zstd", write_statistics=False) as writer:
        for number in range(file.num_row_groups):
            unit = file.read_row_group(number)
            writer.write_table(unit.slice(0, left)) if left > 0 else None
            left -= len(unit)
    kept.rename(path)


def in_a_process(options: Options, **more: Any) -> Measured:
    """Run one step in a separate process."""
    words = [
        word for name, value in (asdict(options) | more).items() for word in (f"--{name}".replace("_", "-"), value)
    ]
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing12", "AWS_REGION": "us-east-1"}
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, env=os.environ | keys, stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Serve, measure, print."""
    options = tyro.cli(Options)
    if options.step:
        print(json.dumps(asdict(run_step(options))))
        return
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(options, there), daemon=True)
    server.start()
    endpoint = f"http://127.0.0.1:{here.recv()}"
    with tempfile.TemporaryDirectory() as folder:
        steps = []
        for step in ("all", "open", "forget", "again"):
            one = in_a_process(options, step=step, endpoint_url=endpoint, folder=folder)
            if step == "forget":
                continue
            steps.append(one)
            print(
                f"{one.step:<36}{one.uploads:>9} uploads{one.seconds:>8} s{one.cpu_s:>8} CPU s{one.peak_mb:>6} MiB, "
                f"{one.imports_mb} of them before",
                flush=True,
            )
    server.terminate()
    print(json.dumps({"uploads": options.uploads, "steps": [asdict(one) for one in steps]}))


if __name__ == "__main__":
    main()
