"""Children of `multiprocessing` that are forks of a process which has imported what they need."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver, spawn
from typing import Any
from unittest.mock import patch

from loky import ProcessPoolExecutor

from spermseg.batch.worker import isolation


def forked_children() -> Callable[..., ProcessPoolExecutor]:
    """Return what stands in the place of loky's pool: its children start in no time, and not in a fresh Python."""
    return partial(ProcessPoolExecutor, context=multiprocessing.get_context("forkserver"))


def serve_children(address: str) -> None:
    """Let the children of this process and of all its forks be forks of what this process is now.

    `multiprocessing` starts such a server by another Python, which would import everything anew.

    Args:
        address: path of the socket of the server.
    """
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    its, ours = os.pipe()  # the server ends when the last fork is gone that could ask for a child
    if not os.fork():
        os.close(ours)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            forkserver.main(listening.fileno(), its, [])
        finally:
            os._exit(0)
    os.close(its)
    listening.close()
    _use(address, ours).start()


@contextmanager
def children_of(address: str) -> Iterator[None]:
    """Let the children that this process starts within the block be forks of the server at an address."""
    its, ours = os.pipe()
    try:
        with _use(address, ours):
            yield
    finally:
        os.close(its)
        os.close(ours)


def _use(address: str, alive: int) -> Any:
    given: dict[str, Any] = {
        "_forkserver_address": address,
        "_forkserver_alive_fd": alive,
        "ensure_running": lambda: None,
    }
    return patch.multiple(forkserver._forkserver, **given)


def fork_isolated_children() -> None:
    """Let isolated children of this process be forks, which do not import its main module: a worker of Ray."""
    given: Callable[[str], dict[str, Any]] = spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        return {key: value for key, value in given(name).items() if key != "init_main_from_path"}

    patch.object(spawn, "get_preparation_data", without_main).start()
    patch.object(isolation, "ProcessPoolExecutor", forked_children()).start()
