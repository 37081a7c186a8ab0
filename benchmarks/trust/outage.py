"""What an outage costs: S3 goes away in the middle of a night, for a minute or for five, and comes back.

    python benchmarks/trust/outage.py --away-s 60
    python benchmarks/trust/outage.py --away-s 300

An S3 server behind a proxy, a few hundred small pictures, and `spermseg segment` on a local Ray. First a calm night;
then one in which, once a third of the units are written, every connection is reset for so long. Nobody gives a command
again: the night must end by itself with status 0, with the rows of the calm one, and `verify` must find nothing. Prints
the lines that the command said meanwhile and, as the last line, one JSON object; exits with 1 where the promise was
broken.
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
sys.path.insert(0, str(TESTS))  # what tests make and break is made and broken here

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

COMMAND = "from spermseg.table import plan; plan.UNIT_MICROGRAPHS = 8; from spermseg.cli import main; main()"
AWAY_AT = 1 / 3
"""Share of the units that is written when the storage goes."""
LONGEST_S = 900
"""A night that takes longer, beside the outage, is taken to hang."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment a night's uploads twice: calmly, and with the storage away for a while in the middle."""

    away_s: float = 60
    """How long the storage is away."""
    pictures: int = 300
    """In the uploads; one in ten is broken."""


@dataclass(kw_only=True)
class Night:
    """One night: the command at work, and what it said."""

    out: Location
    process: subprocess.Popen[bytes]
    log: Path
    began: float

    def share(self) -> float:
        """Return the share of the units that is written."""
        units = sum(Plan(RunFolder(self.out, run_id).plan).units for run_id in list_runs(self.out))
        return len(list_units(self.out)) / units if units else 0.0

    def wait(self, away_s: float) -> float:
        """Wait for its end; return how long it took, s."""
        self.process.wait(LONGEST_S + away_s)
        return time.monotonic() - self.began

    def lines(self) -> list[str]:
        """Return what it said to the person, without the bar."""
        said = re.split(r"[\r\n]+", self.log.read_text(errors="replace"))
        return [line for line in said if re.match(r"WARNING|ERROR|spermseg:|run |Traceback", line)]


def start(name: str, server_url: str, proxy: FaultProxy, folder: Path) -> Night:
    """Start the command on a table of its own; it sees the server through the proxy."""
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
    """Play, print, and exit with 1 where the promise was broken."""
    options = tyro.cli(Options)
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder:
        told = play(options, Path(folder))
    print(json.dumps(told))
    kept = told["struck"] and told["exit_status"] == [0, 0] and not told["differences"] and not told["lock_left"]
    sys.exit(not (kept and told["rows"] == [told["rows"][0]] * 2))  # type: ignore[index]


if __name__ == "__main__":
    main()
