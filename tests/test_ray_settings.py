"""A process that is asked to end while Ray starts, each of its own: signals spare no test runner; and the log."""

import logging
import subprocess
import sys

import pytest
import ray.data

from spermseg.ray_settings import configure_ray_data

PROCESS = """
import signal, sys
from spermseg.ray_settings import connect

class AskedError(KeyboardInterrupt):
    pass

def stop(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise AskedError

def ray_init(**options):
    # as `ray.init`, which puts its own way to end in place
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    {meanwhile}

signal.signal(signal.SIGTERM, stop)
try:
    connect(ray_init, "local")
    {afterwards}
except BaseException as error:
    print(type(error).__name__, error)
print("ignored" if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN else "ours")
"""
ASKED = "signal.raise_signal(signal.SIGTERM)"


def run(meanwhile: str = "pass", afterwards: str = "pass") -> list[str]:
    """Return what the process says: what was raised, and what SIGTERM does now."""
    script = PROCESS.format(meanwhile=meanwhile, afterwards=afterwards)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.strip() for line in done.stdout.splitlines()]


def test_a_process_that_is_asked_to_end_while_ray_starts_ends_its_own_way():
    assert run(meanwhile=ASKED) == ["AskedError", "ignored"]  # the way out is not cut short


@pytest.mark.parametrize(
    ("then", "said"), [("sys.exit(1)", "SystemExit 1"), ("raise KeyboardInterrupt", "KeyboardInterrupt")]
)
def test_what_goes_wrong_while_ray_starts_comes_through_and_the_way_to_end_is_our_own_again(then, said):
    assert run(meanwhile=then) == [said, "ours"]


def test_once_ray_has_started_the_way_to_end_is_our_own_again():
    assert run() == ["ours"]
    assert run(afterwards=ASKED) == ["AskedError", "ignored"]


def test_of_the_handlers_of_rays_loggers_only_those_of_ray_are_silenced(caplog):
    loggers = [logging.getLogger(name) for name in ("ray.data", "ray.train")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    try:
        configure_ray_data(ray.data.DataContext.get_current())
        of_ray = [one for logger in loggers for one in logger.handlers if type(one).__name__ == "PlainRayHandler"]
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    assert [handler.level for handler in of_ray] == [logging.CRITICAL]
    logging.getLogger("spermseg").warning("heard")
    assert [record.getMessage() for record in caplog.records] == ["heard"]
