"""Commands of Python that are forks of a process which has imported most of what they need."""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from support.forks.process import STDIO, become


class ForkedPopen(subprocess.Popen[str]):
    """A process of `[sys.executable, "-c", PROGRAM, *WORDS]`, started by the server of `forking_python` as a fork."""

    _process: BaseProcess

    def _execute_child(self, args: Sequence[str], *more: Any) -> None:
        _, _, _, _, folder, environment, _, _, _, *pipes, _, _, _, _, _, own_session, _ = more
        theirs, _, _, output, _, errors = pipes
        given = [own if file == -1 else file for own, file in zip(STDIO, (theirs, output, errors), strict=True)]
        python, switch, program, *words = args
        assert (python, switch) == (sys.executable, "-c")
        self._process = multiprocessing.get_context("forkserver").Process(
            target=run_program,
            args=(program, words, dict(environment or os.environ), str(folder or Path.cwd()), own_session),
            kwargs={"files": _Files(given)},
        )
        self._process.start()
        assert self._process.pid  # a signal to process 0 would go to the whole group
        self.pid = self._process.pid
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            self.returncode = self._process.exitcode
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        self._process.join(0 if flags & os.WNOHANG else None)
        status = self._process.exitcode
        if status is None:
            return 0, 0
        return self.pid, status << 8 if status >= 0 else -status


class _Files:
    """Open files that travel to a process which is being started."""

    def __init__(self, files: Sequence[int]) -> None:
        self.files = files

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, tuple(DupFd(file) for file in self.files)


def _received(*files: Any) -> list[int]:
    return [file.detach() for file in files]


def run_program(
    program: str, words: list[str], environment: Mapping[str, str], folder: str, own_session: bool, files: list[int]
) -> None:
    """Be the process of a command."""
    if own_session:
        os.setsid()
    become(environment, folder, files)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(one, "r" if one == 0 else "w", closefd=False) for one in STDIO)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
    sys.argv = ["-c", *words]
    main = sys.modules["__main__"].__dict__
    try:
        exec(compile(program, "<string>", "exec"), main)
    finally:
        atexit._run_exitfuncs()  # a process of `multiprocessing` leaves them out
