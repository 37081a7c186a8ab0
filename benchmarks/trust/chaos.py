"""Are rows lost or duplicated after failures? Segments a night's uploads again and again, with a fault in each round.

    python benchmarks/trust/chaos.py --rounds 100

The benchmark has a local Ray cluster of three nodes, an S3 server behind a proxy, and a few hundred small pictures, of
which one in ten is broken. In each round, `spermseg segment` segments the same uploads into a new table. At a random
moment, one of these faults happens:

- a worker process is killed;
- the process that holds a model is killed;
- a whole node is killed;
- the command itself is killed and started again;
- for a while, a third of all requests to the storage fails.

The table must then equal the table of a night without faults, bit for bit, and `spermseg verify` must find nothing.

A seed repeats a round: `--rounds 1 --seed 17`. Prints a line a round and, as its last line, one JSON object of the
figures. Exits with 1 when a row was lost, duplicated or differs, or a round did not end.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import boto3
import tyro
from botocore.exceptions import BotoCoreError, ClientError

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path.insert(0, str(TESTS))  # the helpers of the tests are used here, too

from chaos_round import Round, play_calm, play_round  # noqa: E402
from chaos_stage import ENVIRONMENT, NODES, Stage, cluster, forks, moto, radosgw  # noqa: E402
from support.chaos_night import uploads  # noqa: E402
from support.dark_cells import darkness_model  # noqa: E402
from support.fault_proxy import FaultProxy  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Options:
    """Segment the same uploads again and again, with a fault in each round, and compare the tables."""

    rounds: int = 100
    """Number of rounds."""
    seed: int = 0
    """Seed of the first round; each next round adds 1."""
    pictures: int = 300
    """Uploaded pictures; one in ten is broken."""
    hostile: int = 0
    """More pictures, each of which ends the process that decodes it. A round then takes half a minute longer."""
    unit: int = 8
    """Pictures of a unit of work."""
    server: Literal["moto", "radosgw"] = "moto"
    """The S3 server: moto, which imitates S3, or Ceph's (the Debian packages that tests/radosgw.sh installs)."""
    forked: bool = False
    """Whether workers are forks of a process that has done their imports, which makes rounds shorter."""
    folder: Path | None = None
    """Folder for the logs of the rounds; None is a temporary folder."""


def upload(server_url: str, options: Options) -> None:
    """Wait for the server, and upload the model and the pictures."""
    client = boto3.client("s3", endpoint_url=server_url)
    for _ in range(300):
        with suppress(BotoCoreError, ClientError):
            client.create_bucket(Bucket="chaos")
            break
        time.sleep(0.1)
    client.put_object(Bucket="chaos", Key="model.safetensors", Body=darkness_model())
    for name, data in uploads(options.pictures, options.hostile):
        client.put_object(Bucket="chaos", Key=f"uploads/{name}", Body=data)


def figures(options: Options, rows: int, played: list[Round]) -> dict[str, object]:
    """Return the figures of all rounds."""
    return {
        "rounds": len(played),
        "seed": options.seed,
        "server": options.server,
        "hostile": options.hostile,
        "rows": rows,
        "kills": dict(sorted(Counter(one.fault.value for one in played if one.struck).items())),
        "too_late": sum(not one.struck for one in played),
        "lost": sum(one.differences.lost for one in played),
        "duplicated": sum(one.differences.duplicated for one in played),
        "differing": sum(one.differences.differing for one in played),
        "did_not_end": sum(bool(one.trouble) for one in played),
        "segmented_again": sum(one.again for one in played),
        "segmented_again_most": max((one.again for one in played), default=0),
        "command_starts": sum(one.starts for one in played),
        "seconds_a_round": round(statistics.median([one.seconds for one in played]), 1),
    }


def play(options: Options, folder: Path) -> tuple[list[Round], int]:
    """Play all rounds; return them, and the number of rows of a table."""
    with (
        {"moto": moto, "radosgw": radosgw}[options.server](folder) as server_url,
        FaultProxy(server_url) as proxy,
        forks() if options.forked else nullcontext(subprocess.Popen[str]) as start,
        cluster() as nodes,
    ):
        upload(server_url, options)
        stage = Stage(unit=options.unit, cluster=nodes, proxy=proxy, server_url=server_url, folder=folder, start=start)
        for _ in range(NODES):
            stage.add_node()
        calm, decoded = play_calm(stage)
        print(f"a calm night: {len(calm)} rows, {sum(row['status'] == 'ok' for row in calm)} of them ok", flush=True)
        played = []
        for seed in range(options.seed, options.seed + options.rounds):
            played.append(play_round(stage, seed, calm, decoded))
            print(played[-1], flush=True)
    return played, len(calm)


def main() -> None:
    """Play, print, and exit with 1 where a round failed."""
    options = tyro.cli(Options)
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        played, rows = play(options, folder)
    print(json.dumps(figures(options, rows, played)))
    sys.exit(any(one.failed for one in played))


if __name__ == "__main__":
    main()
