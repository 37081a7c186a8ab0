"""What every fork does first: it takes on the environment, folder and open files of the process it stands for."""

import os
import sys
from collections.abc import Mapping, Sequence

STDIO = (0, 1, 2)


def become(environment: Mapping[str, str], folder: str, files: Sequence[int]) -> None:
    """Let this process be as if it had been started so.

    Args:
        environment: all of its variables; `PYTHONPATH` is heeded.
        folder: its working directory.
        files: what its standard input, output and errors are; they are closed but for that.
    """
    for number, file in zip(STDIO, files, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    os.chdir(folder)
