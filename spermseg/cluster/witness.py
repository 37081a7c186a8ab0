"""A small process that outlives the one that works with Ray, says what nobody else is left to say, and tidies up.

Ray's native code may end the process that it is loaded into, on the spot and without a word: where it cannot register
with its raylet, or loses it in mid-call. SIGKILL leaves no time for words either, and two of Ray's processes run on for
more than a minute then. Imports no Ray.
"""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

import psutil

import spermseg
from spermseg.cluster.head import OwnProcesses
from spermseg.errors import RunError, first_line

LOOK_EVERY_S = 0.5
GRACE_S = 2.0
"""Time that Ray's processes have to end by themselves."""
READY, ALL_IS_SAID = b"ready\n", b"all is said\n"


@contextmanager
def witnessed(ray_folder: Path, goes_on: str) -> Iterator[Callable[[], None]]:
    """Have a witness from before Ray starts until the block ends; what is yielded tells it to keep silent.

    Args:
        ray_folder: what Ray's own processes run out of.
        goes_on: what to tell how to go on.

    Raises:
        RunError: the machine starts no process.
    """
    witness = _start(ray_folder, goes_on)
    told, heard = cast("IO[bytes]", witness.stdin), cast("IO[bytes]", witness.stdout)

    def silence() -> None:
        with suppress(OSError, ValueError):  # it is gone, or was told before
            told.write(ALL_IS_SAID)
            told.close()

    try:
        heard.readline()  # from then on it tells Ray's new processes from those that were there
        yield silence
    finally:
        silence()
        heard.close()
        witness.wait()


def _start(ray_folder: Path, goes_on: str) -> "subprocess.Popen[bytes]":
    root = str(Path(spermseg.__file__).parents[1])
    try:
        return subprocess.Popen(  # noqa: S603 (our own module)
            [sys.executable, "-P", "-m", "spermseg.cluster.witness", str(os.getpid()), str(ray_folder), goes_on],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))},
            start_new_session=True,  # what ends all processes of a job at once is to leave this one
        )
    except OSError as error:
        raise RunError(f"no process could be started beside Ray ({first_line(error)}); is the machine full?") from error


def _watch(parent: psutil.Process, ray_folder: Path, goes_on: str) -> None:
    """Take note of what Ray starts for a process, and when that process ends without a word, say so and end it."""
    processes = OwnProcesses(ray_folder, parent)
    sys.stdout.buffer.write(READY)
    sys.stdout.close()
    while not select.select([0], [], [], LOOK_EVERY_S)[0]:
        processes.note()
    if sys.stdin.buffer.read() == ALL_IS_SAID:
        return
    processes.end(GRACE_S)
    print(
        "\nspermseg: ended from outside: this process or its Ray was killed, or the machine ran out of memory; "
        f"what is written stays, and {goes_on}",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    _watch(psutil.Process(int(sys.argv[1])), Path(sys.argv[2]), sys.argv[3])
