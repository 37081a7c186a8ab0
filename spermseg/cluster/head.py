"""Watches the head of a Ray cluster. If the head is lost, this process ends with one line that says so.

Ray itself would end the process after a minute, with status 1 and no message, and would leave processes behind.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import psutil

KNOCK_EVERY_S = 2.0
"""Time between two checks of the head."""
GONE_S = 60.0
"""Time without an answer after which the head of a cluster is lost. It may restart, or its network may fail briefly."""
VITAL = ("gcs_server", "raylet")
"""Processes of a Ray of our own. If one of them ends, Ray is lost at once."""
GRACE_S = 9.0
"""Time that the main thread has to end in order, before this process is ended. Ray would end it after 14 s."""
END_S = 5.0
"""Time that Ray's processes have to end by themselves."""
FAILED = 1
"""Exit status of a process that lost its head."""
_WAKE = getattr(signal, "SIGUSR2", None)
"""The signal that wakes the main thread, also while it waits inside Ray. None on Windows."""


class HeadGoneError(BaseException):
    """The head is lost. It is no `Exception`, so that no handler on the way catches it."""


class OwnProcesses:
    """The processes that Ray has started for a process: children that run from Ray's folder, and their descendants.

    Args:
        ray_folder: the folder of the package `ray`.
        parent: the process that uses Ray; None takes this process. Its earlier children are left out.
    """

    def __init__(self, ray_folder: Path, parent: psutil.Process | None = None) -> None:
        self._parent, self._folder = parent or psutil.Process(), str(ray_folder)
        self._others = set(self._children())
        self._found: set[psutil.Process] = set()
        self._vital: dict[str, psutil.Process] = {}

    def _children(self) -> list[psutil.Process]:
        try:
            return [one for one in self._parent.children() if self._is_rays(one)]
        except psutil.Error:  # the parent has ended
            return []

    def _is_rays(self, process: psutil.Process) -> bool:
        try:
            return any(word.startswith(self._folder) for word in process.cmdline())
        except psutil.Error:
            return False

    def note(self) -> None:
        """Update the set of processes: add new ones, and drop those that have ended."""
        self._found = {one for one in self._found if _runs(one)}
        for child in set(self._children()) - self._others:
            self._found.add(child)
            with suppress(psutil.Error):  # the child has ended meanwhile
                if child.name() in VITAL:
                    self._vital[child.name()] = child
                self._found.update(child.children(recursive=True))

    def lost(self) -> str:
        """Return the name of a vital process that has ended; empty if all run."""
        return next((name for name, process in self._vital.items() if not _runs(process)), "")

    def end(self, wait_s: float = END_S) -> None:
        """Kill the processes that have not ended by themselves.

        Args:
            wait_s: time that they have to end by themselves.
        """
        self.note()
        _, left = psutil.wait_procs(self._found, timeout=wait_s)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=wait_s)
        self._found.clear()
        self._vital.clear()


class HeadWatch:
    """A thread that checks the head again and again. If the head is lost, the thread ends this process.

    First it raises `HeadGoneError` in the main thread, so that the process ends in order. If the process still runs
    after `GRACE_S`, the thread prints the same line, and ends the process with the same status.

    Args:
        processes: the processes of a Ray of our own.
        own: whether Ray was started for this process.
        goes_on: the end of the message: how to continue.
        on_last_word: called after the thread has printed the line, so that nobody else prints one.
    """

    def __init__(self, processes: OwnProcesses, *, own: bool, goes_on: str, on_last_word: Callable[[], None]) -> None:
        self._processes, self._own, self._goes_on, self._on_last_word = processes, own, goes_on, on_last_word
        self._armed, self._closed = threading.Event(), threading.Event()
        self._before: Callable[[int, FrameType | None], object] | int | None = None
        self._address, self._lost = "", ""
        self.gone = False
        """Whether the head is lost."""

    @property
    def message(self) -> str:
        """The line for users."""
        if self._own:
            what = f"Ray on this machine ended: its process {self._lost} was killed, or the machine ran out of memory"
        else:
            what = f"the head of the Ray cluster at {self._address} did not answer for {GONE_S:.0f} s"
        return f"{what}; what is written stays, and {self._goes_on}"

    def begin(self, address: str) -> None:
        """Start the watch.

        Args:
            address: host and port of the head.
        """
        self._address = address
        if _WAKE is not None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(_WAKE, self._raise)
        self._armed.set()
        threading.Thread(target=self._watch, daemon=True, name="head-watch").start()

    def disarm(self) -> None:
        """Do not interrupt the main thread any more, since it is ending already."""
        self._armed.clear()

    def close(self) -> None:
        """End the watch."""
        self._closed.set()
        if self._before is not None and _WAKE is not None:
            signal.signal(_WAKE, self._before)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed.is_set():
            self._armed.clear()
            raise HeadGoneError(self.message)

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._lost and not self._closed.wait(KNOCK_EVERY_S):
            if self._own:
                self._lost = self._processes.lost()
            elif _answers(self._address):
                answered = time.monotonic()
            elif time.monotonic() - answered > GONE_S:
                break
        if not self._closed.is_set():
            self.gone = True
            self._end()

    def _end(self) -> None:
        self._processes.end(wait_s=0)  # otherwise Ray would wait for them at its end
        if self._before is not None and _WAKE is not None and self._armed.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
        if not self._closed.wait(GRACE_S):
            print(f"\nspermseg: {self.message}", file=sys.stderr, flush=True)
            self._on_last_word()
            self._processes.end(wait_s=0)
            os._exit(FAILED)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _answers(address: str) -> bool:
    server = urlsplit(f"//{address}")
    try:
        socket.create_connection((server.hostname or "", server.port or 0), timeout=KNOCK_EVERY_S).close()
    except OSError:
        return False
    return True
