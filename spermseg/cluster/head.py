"""The head of a Ray cluster, watched: where it is lost, the process that works on it ends in one line.

Ray itself ends such a process after a minute, with status 1 and without a word, and leaves some of its own behind.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import psutil

KNOCK_EVERY_S = 2.0
GONE_S = 60.0
"""The head of a cluster may be started again, or be behind a network that fails for a moment."""
VITAL = ("gcs_server", "raylet")
"""Processes of a Ray of our own without which it is lost at once."""
GRACE_S = 9.0
"""A process that has not come to its end by itself so long after that is ended: Ray would do so after 14 s."""
END_S = 5.0
"""Time that Ray's processes have to end by themselves."""
FAILED = 1
_WAKE = getattr(signal, "SIGUSR2", None)
"""What reaches the main thread also where it waits inside of Ray."""


class HeadGoneError(BaseException):
    """The head is lost. Not an Exception: nothing on the way is to take it for its own."""


class OwnProcesses:
    """What Ray has started for a process, this one or another: children that run out of Ray's folder, and theirs."""

    def __init__(self, ray_folder: Path, parent: psutil.Process | None = None) -> None:
        self._parent, self._folder = parent or psutil.Process(), str(ray_folder)
        self._others = set(self._children())
        self._found: set[psutil.Process] = set()
        self._vital: dict[str, psutil.Process] = {}

    def _children(self) -> list[psutil.Process]:
        try:
            return [one for one in self._parent.children() if self._is_rays(one)]
        except psutil.Error:  # it has ended
            return []

    def _is_rays(self, process: psutil.Process) -> bool:
        try:
            return any(word.startswith(self._folder) for word in process.cmdline())
        except psutil.Error:
            return False

    def note(self) -> None:
        """Take note of what runs now, and forget what has ended."""
        self._found = {one for one in self._found if _runs(one)}
        for child in set(self._children()) - self._others:
            self._found.add(child)
            try:
                self._vital |= {child.name(): child} if child.name() in VITAL else {}
                self._found.update(child.children(recursive=True))
            except psutil.Error:
                continue

    def lost(self) -> str:
        """Return the name of one that Ray cannot do without and that has ended; nothing where all run."""
        return next((name for name, process in self._vital.items() if not _runs(process)), "")

    def end(self, wait_s: float = END_S) -> None:
        """End what still runs, after a while in which it may do so by itself."""
        self.note()
        _, left = psutil.wait_procs(self._found, timeout=wait_s)
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(left, timeout=wait_s)
        self._found.clear()
        self._vital.clear()


class HeadWatch:
    """Knocks at the head, and ends what works on the cluster when it is lost.

    First the main thread is woken with `HeadGoneError`, so that it ends in order. Where that does not help in time,
    the process ends here, with the same line and the same status.
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
        """The one line to show to a person."""
        if self._own:
            what = f"Ray on this machine ended: its process {self._lost} was killed, or the machine ran out of memory"
        else:
            what = f"the head of the Ray cluster at {self._address} did not answer for {GONE_S:.0f} s"
        return f"{what}; what is written stays, and {self._goes_on}"

    def begin(self, address: str) -> None:
        """Watch the head at an address from now on."""
        self._address = address
        if _WAKE is not None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(_WAKE, self._raise)
        self._armed.set()
        threading.Thread(target=self._watch, daemon=True, name="head-watch").start()

    def disarm(self) -> None:
        """Let the main thread be: it is on its way to the end."""
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
        self._processes.end(wait_s=0)  # of our own Ray, if it is: on the way out Ray would wait for them
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
