"""A Ray cluster for as long as a block runs: joined, or started, and then watched and ended. Imports no Ray.

A cluster that is started here serves this process alone. Its ports are on loopback, and each of them asks for a token
that only the processes of this run know: it stands in their environment, and in no file, log or command line.
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
"""A cluster whose port does not answer in this time is taken to be down."""
START_TRIES = 4
"""Times that Ray is started on a machine that is too busy for it, with longer and longer waits between."""
FIRST_WAIT_S, LONGEST_WAIT_S = 5, 90
GOES_ON = "the same command goes on"
CLIENT = "ray://"
"""How addresses of Ray's client begin: it is told by itself when it loses the cluster."""
_abandoned = threading.Event()
"""Set where a head was lost, and Ray not shut down, since it would wait for what is gone."""


@contextmanager
def connected(ray: Any, address: str | None, goes_on: str = GOES_ON) -> Iterator[None]:
    """Connect to a Ray cluster, or start one of our own, until the block ends.

    Args:
        ray: the module; this one imports none.
        address: the cluster; None takes `RAY_ADDRESS`, else this machine.
        goes_on: what to tell how to go on where the head of the cluster is lost.

    Raises:
        ConfigError: the cluster asks for a token that we do not have.
        RunError: Ray did not start, does not answer, or its head was lost meanwhile.
    """
    options = init_options(address)
    own = options["address"] == OWN
    folder = Path(ray.__file__).parent
    with witnessed(folder, goes_on) as silence, _closed_to_others(ray) if own else _fresh_authentication(ray):
        processes = OwnProcesses(folder)
        watch = HeadWatch(processes, own=own, goes_on=goes_on, on_last_word=silence)
        try:
            _start(ray, options, processes)
            processes.note()
            if not options["address"].startswith(CLIENT):
                watch.begin(ray.get_runtime_context().gcs_address)
            yield
        except BaseException as error:
            if watch.gone:  # whatever came of it first
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
    """Let what Ray starts meanwhile listen on loopback only, and refuse who does not know a token of this run's own.

    `RAY_AUTH_MODE=disabled` in the environment leaves the token out. Ray binds to loopback by itself on macOS and
    Windows only: elsewhere `ENABLE_RAY_CLUSTER` makes it do so.
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
    """Let Ray take mode and token from the environment as it is now: it keeps those of its first use otherwise."""
    _forget_authentication(ray)
    yield


def _forget_authentication(ray: Any) -> None:
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _start(ray: Any, options: dict[str, Any], processes: OwnProcesses) -> None:
    """Start Ray, or connect to a cluster. On a busy machine a start is tried again: Ray itself gives up after 30 s."""
    own, began = options["address"] == OWN, time.monotonic()

    def say(state: RetryCallState) -> None:
        error, wait_s = state.outcome.exception(), state.next_action.sleep  # type: ignore[union-attr]
        logger.warning("Ray did not start (%s); it is tried again in %.0f s", first_line(error), wait_s)  # type: ignore[arg-type]
        _clean_up(ray, processes)

    tries = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(START_TRIES if own else 1),
        wait=wait_exponential(FIRST_WAIT_S, LONGEST_WAIT_S, exp_base=3) + wait_random(0, FIRST_WAIT_S),
        before_sleep=say,
        reraise=True,
    )
    try:
        _knock(options["address"])
        tries(_init, ray, options)
    except Exception as error:
        if _is_refused(error):
            raise ConfigError(
                f"the Ray cluster at {options['address']} asks for a token, and got "
                f"{'another' if os.environ.get('RAY_AUTH_MODE') == 'token' else 'none'}; set RAY_AUTH_MODE=token, "
                "and the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
            ) from error
        if own:
            raise RunError(
                f"Ray did not start on this machine, tried for {time.monotonic() - began:.0f} s: {first_line(error)}; "
                f"is it very busy, or out of memory or disk? {GOES_ON}"
            ) from error
        raise RunError(f"Ray does not answer at {options['address']}: {first_line(error)}") from error


def _init(ray: Any, options: dict[str, Any]) -> None:
    if _abandoned.is_set():
        ray.shutdown()
        _abandoned.clear()
    with hidden_native_stderr(), signals_afterwards(ray):
        ray.init(**options)


def _clean_up(ray: Any, processes: OwnProcesses) -> None:
    """End what a start that failed has left behind."""
    processes.note()
    ray.shutdown()
    processes.end()


def _may_pass(error: BaseException) -> bool:
    """Whether Ray may start when it is tried again: not where it is told something wrong, or may not write."""
    lasting = isinstance(error, ValueError | PermissionError) or getattr(error, "errno", None) == errno.ENOSPC
    return isinstance(error, Exception) and not lasting


def _is_refused(error: BaseException | None) -> bool:
    """Whether a cluster did not accept our token: Ray says so in the text of an error under the one that it raises."""
    while error is not None:
        if "AuthenticationError" in f"{type(error).__name__}: {error}":
            return True
        error = error.__cause__ or error.__context__
    return False


def _knock(address: str) -> None:
    """Connect to the port of a cluster and hang up: where nobody listens, `ray.init` would try for many minutes."""
    server = urlsplit(address if "://" in address else f"//{address}")
    if server.hostname and server.port:
        socket.create_connection((server.hostname, server.port), timeout=KNOCK_S).close()
