"""Environment variables, options and signal handlers that are set before Ray starts. Imports no Ray."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

OWN = "local"
"""The address of a Ray that is started for this process alone."""
STARTING = {
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
}
"""Ray's time limits for the start of its own processes. Its defaults of seconds are too short on a busy machine."""


def _quiet_environment(*, own_cluster: bool) -> None:
    """Set what Ray reads from the environment, where the user has not.

    Args:
        own_cluster: Ray will be started for this process alone.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")  # a cloud's GPU machine takes minutes
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # an epoch waits for one; else 2 s
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process, and of what it starts
    if not own_cluster:  # for as long Ray waits for a lost head: `cluster/head.py` is there before, with a word
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "300")
    else:
        os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: beside any other load the workers would starve
        for name, wait in STARTING.items():
            os.environ.setdefault(name, wait)


def _address(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or OWN


def is_own(address: str | None) -> bool:
    """Whether an address means a Ray that is started for this process alone; None takes `RAY_ADDRESS`."""
    return _address(address) == OWN


def init_options(address: str | None) -> dict[str, Any]:
    """Return the arguments of `ray.init`: the cluster of `address` or `RAY_ADDRESS`, else one of its own."""
    address = _address(address)
    _quiet_environment(own_cluster=address == OWN)
    options: dict[str, Any] = {"address": address, "logging_level": "ERROR", "log_to_driver": False}
    if address == OWN:
        options |= {"include_dashboard": False}
    return options


def configure_ray_data(context: Any) -> None:
    """Keep Ray's logs in its files: how far the work is, is shown once, in micrographs; what goes wrong is raised.

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
                handler.setLevel(logging.CRITICAL)  # not handlers of others


@contextmanager
def signals_afterwards(ray: Any) -> Iterator[None]:
    """Heed Ctrl-C and SIGTERM at the end of the block, in this process's own ways; a second one at once.

    To be held around `ray.init`. What a handler raises in the midst of it is lost where the interpreter is forking,
    with a lock held for good, or ends in Ray's native code, which aborts.

    Args:
        ray: the module, which would put a way of its own in place of a handler of SIGTERM.
    """
    ways = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: way for number, way in ways.items() if callable(way)}
    if threading.current_thread() is not threading.main_thread():
        ours = {}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number in came:
            ours[signal.Signals(number)](number, frame)
        came.append(number)

    rays = ray._private.utils
    set_rays = rays.set_sigterm_handler
    if signal.SIGTERM in ours:
        rays.set_sigterm_handler = lambda _: None
    for number in ours:
        signal.signal(number, note)
    try:
        yield
    finally:
        rays.set_sigterm_handler = set_rays
        for number, way in ours.items():
            signal.signal(number, way)
        for one in came[:1]:
            ours[signal.Signals(one)](one, None)


@contextmanager
def own_sigint() -> Iterator[None]:
    """Let Ctrl-C be KeyboardInterrupt: in Ray Train's way a training ends in order, and the process without a word."""
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
    """Send what native code writes to stderr meanwhile to nowhere: Ray's core announces its log level there.

    To be held around `ray.init` only. What goes wrong there is raised, not written.
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
