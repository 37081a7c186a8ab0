"""A small process that outlives the process that uses Ray. If that one is killed, it prints why, and ends Ray.

Ray's native code may end its process at once and without a message: if it cannot register with its raylet, or loses the
raylet during a call. SIGKILL leaves no time for a message, either. Two of Ray's processes then run on for more than a
minute. Imports no Ray.
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
"""Time between two looks for new processes of Ray."""
GRACE_S = 2.0
"""Time that Ray's processes have to end by themselves."""
READY, ALL_IS_SAID = b"ready\n", b"all is said\n"
"""Messages from the witness (it watches now) and to the witness (it must print nothing)."""


@contextmanager
def witnessed(ray_folder: Path, goes_on: str) -> Iterator[Callable[[], None]]:
    """Run a witness until the end of the block, in which Ray is started. Yield a function that silences the witness.

    Args:
        ray_folder: the folder of the package `ray`, from which its processes run.
        goes_on: the end of the message of the witness: how to continue.

    Raises:
        RunError: the witness could not be started.
    """
    witness = _start(ray_folder, goes_on)
    told, heard = cast("IO[bytes]", witness.stdin), cast("IO[bytes]", witness.stdout)

    def silence() -> None:
        with suppress(OSError, ValueError):  # the witness has ended, or the pipe is closed already
            told.write(ALL_IS_SAID)
            told.close()

    try:
        heard.readline()  # the witness has listed the earlier processes of Ray, and will find the new ones
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
            start_new_session=True,  # a signal to all processes of the job must not end the witness
        )
    except OSError as error:
        why = first_line(error)
        raise RunError(
            f"no process could be started beside Ray ({why}); is this machine out of memory, or of process ids?"
        ) from error


def _watch(parent: psutil.Process, ray_folder: Path, goes_on: str) -> None:
    """Watch a process and its Ray. If the process ends without `ALL_IS_SAID`, end its Ray and print a message."""
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
