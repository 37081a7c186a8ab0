"""A process that is asked to end while Ray starts. Each is a process of its own: signals spare no test runner."""

import subprocess
import sys

import pytest

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
