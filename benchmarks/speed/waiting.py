"""Which OpenMP wait policy is fastest? Takes training steps of the recipe `clinic`, alone and beside other load.

    python benchmarks/speed/waiting.py

OpenMP reads `OMP_WAIT_POLICY` once, so every measurement is a separate process, in turn for each policy. The other load
is one process that keeps one CPU busy.

Prints a table and, as its last line, one JSON object of the figures.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
import tyro
from tqdm import tqdm

from spermseg.model.unet import UNet
from spermseg.recipes import clinic
from spermseg.training.learner import Learner

POLICIES = ("active", "passive", "")
"""Values of `OMP_WAIT_POLICY`; with the last one, the variable is not set, and libgomp uses its default."""
WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """Take training steps, and print the median time of a step."""

    repeats: int = 3
    """Processes of each kind."""
    steps: int = 20
    """Steps of each process."""
    threads: int = 2
    """Compute threads."""
    alone: bool = False
    """Internal: measure in this process, and print the median in seconds."""


def seconds_a_step(options: Options) -> float:
    """Return the median seconds of a step."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    recipe = clinic()
    learner = Learner(UNet(recipe.network), recipe.train, options.steps, torch.device("cpu"))
    learner.start_epoch()
    size = (recipe.view.tile, recipe.view.tile)
    x = torch.rand(recipe.train.batch_size, 3, *size).to(memory_format=torch.channels_last)
    target = torch.rand(recipe.train.batch_size, len(recipe.network.classes), *size)
    times = []
    for _ in range(WARM_UP + options.steps):
        begun = time.perf_counter()
        learner.step(x, target)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[WARM_UP:])


def measure(options: Options, policy: str) -> float:
    """Return the median seconds of a step, measured in a process with this policy."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    words = [sys.executable, __file__, "--alone", "--steps", str(options.steps), "--threads", str(options.threads)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def busy() -> Iterator[None]:
    """Keep one CPU busy until the block ends."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    if options.alone:
        print(seconds_a_step(options))
        return
    found: dict[str, list[tuple[float, float]]] = {policy: [] for policy in POLICIES}
    for _ in tqdm(range(options.repeats), desc="repeats"):
        for policy in POLICIES:
            by_itself = measure(options, policy)
            with busy():
                found[policy].append((by_itself, measure(options, policy)))
    figures = {
        policy or "unset": [statistics.median(of) for of in zip(*pairs, strict=True)] for policy, pairs in found.items()
    }
    print("| policy | s a step, alone | beside other work |\n| --- | --- | --- |")
    for policy, (by_itself, beside) in figures.items():
        print(f"| {policy} | {by_itself:.3f} | {beside:.3f} |")
    print(json.dumps(asdict(options) | figures))


if __name__ == "__main__":
    main()
