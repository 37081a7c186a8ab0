"""What every process of ours tells Ray before it starts. Imports no Ray."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from spermseg.errors import RunError, first_line

KNOCK_S = 10
"""A cluster whose port does not answer in this time is taken to be down."""


def _quiet_environment(*, own_cluster: bool) -> None:
    """Set what Ray reads from the environment, where the user has not.

    Args:
        own_cluster: Ray will be started for this process alone, on loopback. Without a word on authentication, Ray
            would write a token file that silently locks later clusters of the same user.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1800")  # a cloud's GPU machine takes minutes
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # an epoch waits for one; else 2 s
    if own_cluster:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


def _init_options(address: str | None) -> dict[str, Any]:
    """Return the arguments of `ray.init`: the cluster of `address` or `RAY_ADDRESS`, else one of its own."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _quiet_environment(own_cluster=address == "local")
    options: dict[str, Any] = {"address": address, "logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        options |= {"include_dashboard": False}
    return options


def configure_ray_data(context: Any) -> None:
    """Keep Ray's logs in its files: how far the work is, is shown once, in micrographs; what goes wrong is raised.

    Args:
        context: `ray.data.DataContext.get_current()`, after `ray.init`, which sets the level of Ray's loggers.
    """
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # what was found wrong, not Ray's words around it
    for name in ("ray.data", "ray.train"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and type(handler).__module__.startswith("ray."):
                handler.setLevel(logging.CRITICAL)  # of those that show lines, Ray's own: others may hang there, too


def connect(init: Callable[..., Any], address: str | None) -> None:
    """Connect to a Ray cluster, or start one of our own.

    Args:
        init: `ray.init`; this module imports no Ray.
        address: the cluster; None takes `RAY_ADDRESS`, else this machine.

    Raises:
        RunError: Ray did not start, or does not answer.
    """
    options = _init_options(address)
    try:
        _knock(options["address"])
        with _hidden_native_stderr(), _own_sigterm():
            init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(f"Ray did not start, or does not answer at {options['address']}: {first_line(error)}") from error


def _knock(address: str) -> None:
    """Connect to the port of a cluster and hang up: where nobody listens, `ray.init` would try for many minutes."""
    server = urlsplit(address if "://" in address else f"//{address}")
    if server.hostname and server.port:
        socket.create_connection((server.hostname, server.port), timeout=KNOCK_S).close()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does when it is asked to end, where it has a way of its own: Ray puts another in place."""
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    ended: SystemExit | None = None
    try:
        yield
    except SystemExit as end:
        ended = end
    finally:
        signal.signal(signal.SIGTERM, before)
    if ended is not None:
        if ended.code == signal.SIGTERM:  # Ray's way, which was in place: ours begins from here
            before(signal.SIGTERM, None)
        raise ended


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
def _hidden_native_stderr() -> Iterator[None]:
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
