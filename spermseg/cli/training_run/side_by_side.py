"""Trainings side by side on one cluster, each in its own process, with one progress bar."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import fields
from typing import IO, Any

from tqdm import tqdm

from spermseg.cli.train import Train
from spermseg.cli.training_run.folder import epochs_done
from spermseg.errors import RunError
from spermseg.storage.filesystem import Location

LOOK_EVERY_S = 1.0
PROGRAM = (sys.executable, "-c", "from spermseg.cli import main; main()", "train")
LOG = "log.txt"


def train_side_by_side(trainings: Mapping[str, Train], at_once: int) -> None:
    """Run trainings. The output of each goes to `log.txt` in its folder.

    Args:
        trainings: name -> training, with its number of epochs.
        at_once: number of trainings that run at the same time.

    Raises:
        RunError: one or more trainings failed. The others ran to their end.
    """
    waiting, failed = dict(trainings), []
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=sum(one.epochs or 0 for one in trainings.values()), unit="epoch"))
        bar.set_description(f"training {', '.join(trainings)}")
        running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
        stack.callback(_stop, running)
        while waiting or running:
            while waiting and len(running) < at_once:
                name = next(iter(waiting))
                log: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
                running[name] = (_start(waiting.pop(name), log), log)
            time.sleep(LOOK_EVERY_S)
            for name in [name for name, (process, _) in running.items() if process.poll() is not None]:
                process, log = running.pop(name)
                log.seek(0)
                _place(trainings[name]).child(LOG).write_bytes(log.read())
                failed += [name] if process.returncode else []
            bar.update(sum(epochs_done(_place(one)) for one in trainings.values()) - bar.n)
    if failed:
        logs = ", ".join(_place(trainings[name]).child(LOG).uri for name in trainings if name in failed)
        raise RunError(f"{len(failed)} of {len(trainings)} trainings failed; see {logs}")


def _start(training: Train, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*PROGRAM, *command_line(training)], stdout=log, stderr=subprocess.STDOUT)  # noqa: S603


def command_line(training: Train) -> list[str]:
    """Return the arguments of `spermseg train` for this training."""
    given = {one.name: getattr(training, one.name) for one in fields(training)}
    defaults = {one.name: one.default for one in fields(training)}
    return [word for name, value in given.items() if value != defaults[name] for word in _words(name, value)]


def _words(name: str, value: Any) -> Iterable[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]


def _place(training: Train) -> Location:
    return Location(training.out, training.endpoint_url)


def _stop(running: Mapping[str, tuple["subprocess.Popen[bytes]", IO[bytes]]]) -> None:
    """Send SIGTERM to the running trainings, and wait for their end."""
    for process, _ in running.values():
        process.terminate()
    for process, _ in running.values():
        process.wait()
