"""How much time does an S3 outage cost? S3 fails in the middle of a night, for a minute or for five, and comes back.

    python benchmarks/trust/outage.py --away-s 60
    python benchmarks/trust/outage.py --away-s 300

The benchmark has an S3 server behind a proxy, a few hundred small pictures, and `spermseg segment` on a local Ray. The
first night has no outage. In the second night, after a third of the units are written, every connection is reset for
`--away-s` seconds. The second night must end by itself with status 0 and with as many rows as the first, and `verify`
must find nothing. Prints the messages of the command and, as its last line, one JSON object. Exits with 1 where the
night did not end like this.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path.insert(0, str(TESTS))  # the helpers of the tests are used here, too

from chaos import Options as Uploads  # noqa: E402
from chaos import upload  # noqa: E402
from chaos_stage import ENVIRONMENT, moto  # noqa: E402
from support.fault_proxy import Fault, FaultProxy, Kind  # noqa: E402

from spermseg.storage.filesystem import Location  # noqa: E402
from spermseg.table.plan import Plan  # noqa: E402
from spermseg.table.receipt import list_runs  # noqa: E402
from spermseg.table.results import list_units  # noqa: E402
from spermseg.table.run_folder import RunFolder  # noqa: E402
from spermseg.table.verify import verify  # noqa: E402

COMMAND = """
from functools import partial
from spermseg.cli import main, segment
segment.Night = partial(segment.Night, unit_micrographs=8)
main()
"""
AWAY_AT = 1 / 3
"""Share of written units at which the outage begins."""
LONGEST_S = 900
"""A night that takes longer, without the outage, counts as hanging."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment a night's uploads twice: without an outage, and with one in the middle."""

    away_s: float = 60
    """Length of the outage."""
    pictures: int = 300
    """Uploaded pictures; one in ten is broken."""


@dataclass(kw_only=True)
class Night:
    """One night: the running command and its log."""

    out: Location
    process: subprocess.Popen[bytes]
    log: Path
    began: float

    def share(self) -> float:
        """Return the share of written units."""
        units = sum(Plan(RunFolder(self.out, run_id).plan).units for run_id in list_runs(self.out))
        return len(list_units(self.out)) / units if units else 0.0

    def wait(self, away_s: float) -> float:
        """Wait for the end of the night; return its duration, s."""
        self.process.wait(LONGEST_S + away_s)
        return time.monotonic() - self.began

    def lines(self) -> list[str]:
        """Return the messages of the command, without the progress bar."""
        said = re.split(r"[\r\n]+", self.log.read_text(errors="replace"))
        return [line for line in said if re.match(r"WARNING|ERROR|spermseg:|run |Traceback", line)]


def start(name: str, server_url: str, proxy: FaultProxy, folder: Path) -> Night:
    """Start the command with a new table; the command reaches the server through the proxy."""
    words = ("s3://chaos/uploads", "--model", "s3://chaos/model.safetensors", "--out", f"s3://chaos/{name}")
    more = ("--endpoint-url", proxy.endpoint_url, "--address", "local", "--workers", "1", "--decode-threads", "1")
    log, began = folder / f"{name}.log", time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            (sys.executable, "-c", COMMAND, "segment", *words, *more), stdout=file, stderr=file, env=os.environ
        )
    return Night(out=Location(f"s3://chaos/{name}", server_url), process=process, log=log, began=began)


def play(options: Options, folder: Path) -> dict[str, object]:
    """Play both nights, and return the figures."""
    with moto(folder) as server_url, FaultProxy(server_url) as proxy:
        upload(server_url, Uploads(pictures=options.pictures))
        calm = start("calm", server_url, proxy, folder)
        calm_s = calm.wait(0)
        night = start("outage", server_url, proxy, folder)
        while night.share() < AWAY_AT and night.process.poll() is None:
            time.sleep(0.1)
        struck = night.process.poll() is None
        away = proxy.inject(Fault(kind=Kind.RESET, times=None))
        time.sleep(options.away_s)
        proxy.remove(away)
        back = time.monotonic()
        took_s = night.wait(options.away_s)
        rows, wrong = verify(night.out)
        print("\n".join(night.lines()))
        return {
            "away_s": options.away_s,
            "struck": struck,
            "exit_status": [calm.process.returncode, night.process.returncode],
            "rows": [verify(calm.out)[0], rows],
            "differences": len(wrong),
            "requests_reset": proxy.faults[Kind.RESET],
            "calm_s": round(calm_s, 1),
            "night_s": round(took_s, 1),
            "cost_s": round(took_s - calm_s, 1),
            "from_return_to_end_s": round(night.began + took_s - back, 1),
            "lock_left": night.out.child("lock.json").exists(),
        }


def main() -> None:
    """Play, print, and exit with 1 where the night did not end as it must."""
    options = tyro.cli(Options)
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder:
        told = play(options, Path(folder))
    print(json.dumps(told))
    kept = told["struck"] and told["exit_status"] == [0, 0] and not told["differences"] and not told["lock_left"]
    sys.exit(not (kept and told["rows"] == [told["rows"][0]] * 2))  # type: ignore[index]


if __name__ == "__main__":
    main()
