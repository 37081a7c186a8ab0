"""A context manager that joins or starts a Ray cluster, watches it, and ends it. Imports no Ray.

A cluster that is started here serves this process alone. Its ports listen on loopback only, and ask for a token. The
token is new for each run. It is in the environment of the processes of this run, and in no file, log or command line.
"""

import errno
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from spermseg.cluster.head import HeadWatch, OwnProcesses
from spermseg.cluster.settings import OWN, hidden_native_stderr, init_options, signals_afterwards
from spermseg.cluster.witness import witnessed
from spermseg.errors import ConfigError, RunError, first_line

logger = logging.getLogger(__name__)

KNOCK_S = 10
"""Time limit for the connection to the port of a cluster. If it fails, the cluster counts as down."""
START_TRIES = 4
"""Number of attempts to start Ray on a busy machine. The waits between them grow."""
FIRST_WAIT_S, LONGEST_WAIT_S = 5, 90
GOES_ON = "the same command goes on"
CLIENT = "ray://"
"""Prefix of the addresses of Ray's client, which itself detects that it lost the cluster."""
_abandoned = threading.Event()
"""Set if the head was lost and Ray was not shut down, since `ray.shutdown` would wait for the lost head."""


@contextmanager
def connected(ray: Any, address: str | None, goes_on: str = GOES_ON) -> Iterator[None]:
    """Connect to a Ray cluster, or start one for this process, until the end of the `with` block.

    Args:
        ray: the module `ray`, since this module does not import it.
        address: the cluster; None takes `RAY_ADDRESS`, or if that is not set, starts Ray on this machine.
        goes_on: the end of the message for a lost head: how to continue.

    Raises:
        ConfigError: the cluster asks for a token that this process does not have.
        RunError: Ray did not start or does not answer, or its head was lost during the block.
    """
    options = init_options(address)
    own = options["address"] == OWN
    folder = Path(ray.__file__).parent
    access = _closed_to_others(ray) if own else _fresh_authentication(ray)
    with witnessed(folder, goes_on) as silence, access:
        processes = OwnProcesses(folder)
        watch = HeadWatch(processes, own=own, goes_on=goes_on, on_last_word=silence)
        try:
            _start(ray, options, processes)
            processes.note()
            if not options["address"].startswith(CLIENT):
                watch.begin(ray.get_runtime_context().gcs_address)
            yield
        except BaseException as error:
            if watch.gone:  # any other error is a consequence of this
                raise RunError(watch.message) from error
            raise
        finally:
            watch.disarm()
            if watch.gone:
                _abandoned.set()
            else:
                ray.shutdown()
            processes.end()
            watch.close()


@contextmanager
def _closed_to_others(ray: Any) -> Iterator[None]:
    """Make the Ray that is started in this block listen on loopback only, and ask for a token of this run.

    `RAY_AUTH_MODE=disabled` in the environment leaves the token out. Ray listens on loopback by default on macOS and
    Windows only. `ENABLE_RAY_CLUSTER = False` has the same effect on other systems.
    """
    changed = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "disabled":
        changed |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    constants = ray._private.ray_constants
    before, reachable = {name: os.environ.get(name) for name in changed}, constants.ENABLE_RAY_CLUSTER
    os.environ.update(changed)
    constants.ENABLE_RAY_CLUSTER = False
    try:
        with _fresh_authentication(ray):
            yield
    finally:
        constants.ENABLE_RAY_CLUSTER = reachable
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _forget_authentication(ray)


@contextmanager
def _fresh_authentication(ray: Any) -> Iterator[None]:
    """Make Ray read mode and token from the current environment. Otherwise it keeps those of its first use."""
    _forget_authentication(ray)
    yield


def _forget_authentication(ray: Any) -> None:
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _start(ray: Any, options: dict[str, Any], processes: OwnProcesses) -> None:
    """Start Ray, or connect to a cluster. A start is retried, since Ray gives up after 30 s on a busy machine."""
    address, began = options["address"], time.monotonic()
    try:
        _knock(address)
        _retrying(ray, processes, START_TRIES if address == OWN else 1)(_init, ray, options)
    except Exception as error:
        raise _explained(error, address, time.monotonic() - began) from error


def _retrying(ray: Any, processes: OwnProcesses, tries: int) -> Retrying:
    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            wait_s = state.upcoming_sleep
            logger.warning("Ray did not start (%s); it is tried again in %.0f s", first_line(error), wait_s)
        _clean_up(ray, processes)

    return Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(tries),
        wait=wait_exponential(FIRST_WAIT_S, LONGEST_WAIT_S, exp_base=3) + wait_random(0, FIRST_WAIT_S),
        before_sleep=before_sleep,
        reraise=True,
    )


def _explained(error: Exception, address: str, tried_s: float) -> ConfigError | RunError:
    """Return the error of this project for an exception of Ray."""
    if _is_refused(error):
        got = "another" if os.environ.get("RAY_AUTH_MODE") == "token" else "none"
        return ConfigError(
            f"the Ray cluster at {address} asks for a token, and got {got}; set RAY_AUTH_MODE=token, and the cluster's "
            "token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if address == OWN:
        return RunError(
            f"Ray did not start on this machine, tried for {tried_s:.0f} s: {first_line(error)}; is the machine very "
            f"busy, or out of memory or disk? {GOES_ON}"
        )
    return RunError(f"Ray does not answer at {address}: {first_line(error)}")


def _init(ray: Any, options: dict[str, Any]) -> None:
    if _abandoned.is_set():
        ray.shutdown()
        _abandoned.clear()
    with hidden_native_stderr(), signals_afterwards(ray):
        ray.init(**options)


def _clean_up(ray: Any, processes: OwnProcesses) -> None:
    """End the processes that a failed start has left behind."""
    processes.note()
    ray.shutdown()
    processes.end()


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: not after a wrong option, a refused permission, or on a full disk."""
    lasting = isinstance(error, ValueError | PermissionError) or getattr(error, "errno", None) == errno.ENOSPC
    return isinstance(error, Exception) and not lasting


def _is_refused(error: BaseException | None) -> bool:
    """Whether the cluster did not accept our token. Ray says so in the text of a cause of the exception."""
    while error is not None:
        if "AuthenticationError" in f"{type(error).__name__}: {error}":
            return True
        error = error.__cause__ or error.__context__
    return False


def _knock(address: str) -> None:
    """Connect to the port of a cluster, and close the connection. If nobody listens, `ray.init` tries for minutes."""
    server = urlsplit(address if "://" in address else f"//{address}")
    if server.hostname and server.port:
        socket.create_connection((server.hostname, server.port), timeout=KNOCK_S).close()
