"""Environment variables, options and signal handlers that are set before Ray starts. Imports no Ray."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

OWN = "local"
"""The address for a Ray that is started for this process alone."""
STARTING = {
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
}
"""Environment variables: Ray's time limits for the start of its own processes. Its defaults are a few seconds, which is
too short on a busy machine."""


def _quiet_environment(*, own_cluster: bool) -> None:
    """Set the environment variables of Ray that the user has not set.

    Args:
        own_cluster: whether Ray will be started for this process alone.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")  # a cloud's GPU machine takes minutes
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # each epoch waits for one; Ray's default is 2 s
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process and its children
    if own_cluster:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default is 15: any other load starves the workers
        for name, wait in STARTING.items():
            os.environ.setdefault(name, wait)
    else:  # Ray waits longer for a lost head than `cluster/head.py`, which ends the process with a message
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "300")


def _address(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or OWN


def is_own(address: str | None) -> bool:
    """Whether an address means a Ray that is started for this process alone; None takes `RAY_ADDRESS`."""
    return _address(address) == OWN


def init_options(address: str | None) -> dict[str, Any]:
    """Return the arguments of `ray.init`, and set the environment variables of Ray.

    Args:
        address: the cluster; None takes `RAY_ADDRESS`, or if that is not set, starts Ray on this machine.
    """
    address = _address(address)
    _quiet_environment(own_cluster=address == OWN)
    options: dict[str, Any] = {"address": address, "logging_level": "ERROR", "log_to_driver": False}
    if address == OWN:
        options |= {"include_dashboard": False}
    return options


def configure_ray_data(context: Any) -> None:
    """Keep Ray's log out of the terminal. This project shows its own progress, and raises errors.

    Args:
        context: `ray.data.DataContext.get_current()`, after `ray.init`, which sets the level of Ray's loggers.
    """
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # the original error, not Ray's wrapper
    for name in ("ray.data", "ray.train"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and type(handler).__module__.startswith("ray."):
                handler.setLevel(logging.CRITICAL)


@contextmanager
def signals_afterwards(ray: Any) -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block, and then call the handlers of this process.

    If the same signal comes again during the block, its handler is called at once. This is for `ray.init`, in which a
    handler must not raise: while the interpreter forks, the exception would be lost and a lock held for ever, and in
    Ray's native code it would abort the process.

    Args:
        ray: the module `ray`. Within the block, it cannot replace the handler of SIGTERM.
    """
    handlers = _own_handlers()
    received: list[int] = []

    def delay(number: int, frame: FrameType | None) -> None:
        if number in received:
            handlers[number](number, frame)
        received.append(number)

    no_replacement = _without_rays_handler(ray) if signal.SIGTERM in handlers else nullcontext()
    with no_replacement:
        for number in handlers:
            signal.signal(number, delay)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if received:
                handlers[received[0]](received[0], None)


def _own_handlers() -> dict[int, Callable[[int, FrameType | None], Any]]:
    """Return signal -> handler, of SIGINT and SIGTERM. Only the main thread can set handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return {number: handler for number, handler in found.items() if callable(handler)}


@contextmanager
def _without_rays_handler(ray: Any) -> Iterator[None]:
    utils = ray._private.utils
    set_sigterm_handler = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_sigterm_handler


@contextmanager
def own_sigint() -> Iterator[None]:
    """Convert the exit of Ray Train after Ctrl-C into KeyboardInterrupt.

    The handler of Ray Train ends the training in order, and then exits without a message.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def hidden_native_stderr() -> Iterator[None]:
    """Discard what native code writes to stderr in the block. This is for `ray.init` only, which raises its errors.

    Ray's core writes its log level to stderr.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
