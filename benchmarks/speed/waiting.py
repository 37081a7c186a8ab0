"""How threads that wait for each other had best wait: steps of the recipe `clinic`, alone and beside other work.

    python benchmarks/speed/waiting.py

OpenMP reads `OMP_WAIT_POLICY` once, so that every measurement is a process of its own, one kind after the other. Beside
it one process does nothing but count: it has one CPU's worth of what there is.

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
"""The last: none is set, and libgomp waits as it sees fit."""
WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """Take the steps, and say how long each took."""

    repeats: int = 3
    """Processes of each kind."""
    steps: int = 20
    """Of each process."""
    threads: int = 2
    """That compute."""
    alone: bool = False
    """Measure in this process, and print the median in seconds: what the others are started with."""


def seconds_a_step(options: Options) -> float:
    """Return the median."""
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
    """Measure in a process with this policy."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    words = [sys.executable, __file__, "--alone", "--steps", str(options.steps), "--threads", str(options.threads)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def busy() -> Iterator[None]:
    """Keep one CPU's worth busy."""
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
