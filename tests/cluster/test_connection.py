"""A Ray of our own: closed to others, started with patience; and the head of a cluster, watched. Mostly without Ray."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import ray
from support.forks.workers import started_with

from spermseg.cluster import connection as ray_connection
from spermseg.cluster import head as ray_head
from spermseg.cluster.connection import START_TRIES, connected
from spermseg.errors import ConfigError, RunError

AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Nobody has said anything on tokens, and no wait takes long."""
    for name in (*AUTHENTICATION, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray_connection, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(ray_connection, "LONGEST_WAIT_S", 0.02)


def imitation(
    init: Callable[..., Any] = lambda **_: None, folder: Path = Path("/nowhere/ray"), address: str = ""
) -> Any:
    """Return what stands for the module `ray`."""
    module = MagicMock(init=MagicMock(side_effect=init), __file__=str(folder / "__init__.py"))
    module.get_runtime_context.return_value = SimpleNamespace(gcs_address=address)
    return module


def authentication() -> dict[str, str]:
    return {name: os.environ[name] for name in AUTHENTICATION if name in os.environ}


def test_each_run_has_a_token_of_its_own_and_the_environment_is_afterwards_what_it_was(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "that of a cluster")
    before, seen = dict(os.environ), []
    for _ in range(2):
        with connected(imitation(lambda **_: seen.append(authentication())), "local"):
            seen.append(authentication())
        assert authentication() == {"RAY_AUTH_TOKEN": "that of a cluster"}
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert all(one["RAY_AUTH_MODE"] == "token" and len(one["RAY_AUTH_TOKEN"]) == 64 for one in seen)
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in before.keys() | os.environ.keys()


@pytest.mark.parametrize(("mode", "address"), [("disabled", "local"), ("token", "127.0.0.1:0"), (None, "127.0.0.1:0")])
def test_what_the_user_says_of_tokens_is_heeded(monkeypatch, mode, address):
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    seen = []
    with connected(imitation(lambda **_: seen.append(authentication()), address="127.0.0.1:1"), address):
        pass
    assert seen == [{} if mode is None else {"RAY_AUTH_MODE": mode}]


def test_a_ray_that_does_not_start_on_a_busy_machine_is_tried_again_and_what_it_left_behind_is_ended(tmp_path, caplog):
    (tmp_path / "gcs_server.py").write_text("import time; time.sleep(300)")
    started, others = [], subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])

    def init(**_):
        started.append(subprocess.Popen([sys.executable, str(tmp_path / "gcs_server.py")]))
        time.sleep(0.2)  # until it has its own command line
        if len(started) < 3:
            raise Exception("The current node timed out during startup.")

    try:
        with connected(imitation(init, tmp_path), "local"):
            assert [one.poll() is None for one in started] == [False, False, True]
        assert [one.poll() is None for one in [*started, others]] == [False, False, False, True]
    finally:
        others.kill()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all(
        "did not start (The current node timed out during startup.); it is tried again in" in one for one in said
    )


def test_a_ray_that_never_starts_is_one_line(caplog):
    def init(**_):
        raise Exception("The current node timed out.\nMore of it")

    module = imitation(init)
    never = r"did not start on this machine, tried for \d+ s: The current node"
    with pytest.raises(RunError, match=never) as caught, connected(module, "local"):
        pytest.fail("it did not start")
    assert "\n" not in caught.value.message
    assert module.init.call_count == START_TRIES


def test_what_cannot_pass_is_not_tried_again():
    module = imitation(MagicMock(side_effect=PermissionError(13, "Permission denied", "/tmp/ray")))
    with pytest.raises(RunError, match="Permission denied"), connected(module, "local"):
        pytest.fail("it did not start")
    assert module.init.call_count == 1


@pytest.mark.parametrize(("mode", "got"), [(None, "got none"), ("token", "got another")])
def test_a_token_that_is_missing_or_not_the_clusters_is_one_line(monkeypatch, mode, got):
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)

    def init(**_):
        cause = RuntimeError("Last connection error: Traceback ...\nray.exceptions.AuthenticationError: RPC error")
        raise ConnectionError("Failed to connect to Ray cluster at here") from cause

    asks = f"the Ray cluster at auto asks for a token, and {got}; set RAY_AUTH_MODE"
    with pytest.raises(ConfigError, match=asks), connected(imitation(init), "auto"):
        pytest.fail("it let us in")


@contextmanager
def head(monkeypatch, gone_s: float = 0.1):
    """A port that answers until the function that is yielded is called."""
    monkeypatch.setattr(ray_head, "KNOCK_EVERY_S", 0.05)
    monkeypatch.setattr(ray_head, "GONE_S", gone_s)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}", server.close


def test_a_head_that_is_lost_wakes_the_main_thread_and_is_one_line(monkeypatch):
    before = signal.getsignal(signal.SIGUSR2)

    def work(address: str, end: Callable[[], None]) -> None:
        with connected(imitation(address=address), address, goes_on="--resume goes on"):
            end()
            threading.Event().wait(60)
            pytest.fail("nobody woke us")

    with head(monkeypatch) as (address, end), pytest.raises(RunError) as caught:
        work(address, end)
    lost = f"the head of the Ray cluster at {address} did not answer for 0 s"
    assert caught.value.message == f"{lost}; what is written stays, and --resume goes on"
    assert signal.getsignal(signal.SIGUSR2) is before


def test_a_head_that_does_not_answer_for_a_moment_ends_nothing(monkeypatch):
    with head(monkeypatch, gone_s=300) as (address, end), connected(imitation(address=address), address):
        end()
        time.sleep(0.3)


DEAF = """
import signal, sys, threading
from pathlib import Path
from spermseg.cluster import head as ray_head
ray_head.KNOCK_EVERY_S = ray_head.GONE_S = ray_head.GRACE_S = 0.05
processes = ray_head.OwnProcesses(Path("/nowhere/ray"))
watch = ray_head.HeadWatch(processes, own=False, goes_on="it goes on", on_last_word=lambda: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
watch.begin("127.0.0.1:1")
threading.Event().wait(60)
"""


def test_a_main_thread_that_cannot_be_woken_is_ended_with_the_same_line_and_status_1():
    done = subprocess.run([sys.executable, "-c", DEAF], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 1
    said = "spermseg: the head of the Ray cluster at 127.0.0.1:1 did not answer for 0 s; what is written stays, and it"
    assert done.stderr.split("\n")[1].startswith(said)


def runs(pid: int) -> bool:
    """Return whether a process runs; one that was killed stays as a zombie until its new parent looks after it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SILENT = """
import os, subprocess, sys, time
from unittest.mock import MagicMock
from spermseg.cluster.connection import connected

def ray_init(**options):
    quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
    print(subprocess.Popen([sys.executable, sys.argv[1] + "/raylet.py"], **quiet).pid, flush=True)
    {end}

with connected(MagicMock(init=ray_init, __file__=sys.argv[1] + "/__init__.py"), "local", goes_on="--resume goes on"):
    print("in")
"""


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        ("time.sleep(3); os._exit(1)", 1, True),  # as Ray's native code does
        ("time.sleep(3); os.kill(os.getpid(), 9)", -9, True),
        ("sys.exit(1)", 1, False),
        ("return", 0, False),
    ],
)
def test_what_ends_without_a_word_is_spoken_for_and_its_ray_is_ended(tmp_path, end, status, words):
    (tmp_path / "raylet.py").write_text("import time; time.sleep(300)")
    command = [sys.executable, "-c", SILENT.format(end=end), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == status
    line = "ended from outside: this process or its Ray was killed, or the machine ran out of memory; "
    said = f"spermseg: {line}what is written stays, and --resume goes on"
    assert done.stderr.split() == (said.split() if words else [])
    assert not runs(int(done.stdout.split()[0]))


def test_a_machine_that_starts_no_process_more_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(RunError, match="no process could be started beside Ray"), connected(imitation(), "local"):
        pytest.fail("it started")


@pytest.mark.parametrize("address", ["local", "127.0.0.1:0"])
def test_the_native_code_of_ray_writes_no_log_to_the_terminal(monkeypatch, address):
    monkeypatch.delenv("RAY_BACKEND_LOG_LEVEL", raising=False)
    with connected(imitation(address="127.0.0.1:1"), address):
        assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "fatal"


JOIN = """
import os, ray
ray.init(address=os.environ["WHERE"], logging_level="ERROR", log_to_driver=False)
print("in:", ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote(), timeout=60))
"""
JOIN_AS_WE_DO = """
import os, ray
from spermseg.cluster.connection import connected
try:
    with connected(ray, os.environ["WHERE"]):
        print("in:")
except ValueError as error:
    print(error)
"""


def join(address: str, script: str = JOIN, **environment: str) -> subprocess.Popen:
    """Begin to use a Ray as any process of this machine may try to."""
    inherited = {name: value for name, value in os.environ.items() if name not in AUTHENTICATION}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=inherited | environment | {"WHERE": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.ray
def test_a_ray_of_our_own_refuses_who_has_no_token_and_listens_on_no_address_but_loopback(
    python_that_forks,
):
    before = listening()
    with started_with(python_that_forks), connected(ray, "local"):
        token, address = os.environ["RAY_AUTH_TOKEN"], ray.get_runtime_context().gcs_address
        port = int(address.rpartition(":")[2])
        tries = {
            "none": join(f"127.0.0.1:{port}"),
            "disabled": join(f"127.0.0.1:{port}", RAY_AUTH_MODE="disabled"),  # who does not want to be asked
            "wrong": join(f"127.0.0.1:{port}", JOIN_AS_WE_DO, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64),
            "right": join(f"127.0.0.1:{port}", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token),
        }
        said = {name: process.communicate(timeout=200)[0] for name, process in tries.items()}
        processes, open_to = own_processes(), listening() - before
        told = [word for process in processes for word in process.cmdline() if token in word]
        logs = Path(ray._private.worker._global_node.get_session_dir_path()).rglob("*")
        written = [log for log in logs if log.is_file() and token.encode() in log.read_bytes()]
    assert "in:" in said["right"], said
    assert "in:" not in said["none"] + said["disabled"] + said["wrong"], said
    assert f"the Ray cluster at 127.0.0.1:{port} asks for a token, and got another" in said["wrong"]
    assert {ip for ip, _ in open_to} == {"127.0.0.1"}
    assert (told, written) == ([], [])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host_address(), port), timeout=5)


def own_processes() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def listening() -> set[tuple[str, int]]:
    """Return the addresses and ports that this process and those it started listen on; other tests' servers, too."""
    found = (one for process in own_processes() for one in process.net_connections() if one.status == "LISTEN")
    return {(one.laddr.ip.removeprefix("::ffff:"), one.laddr.port) for one in found}


def host_address() -> str:
    """The address under which others reach this machine; a connection of UDP sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("192.0.2.1", 9))
        return str(one.getsockname()[0])


PROCESS = """
import os, signal, subprocess, sys
from unittest.mock import MagicMock
from spermseg.cluster.connection import connected

class AskedError(KeyboardInterrupt):
    pass

def stop(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise AskedError

def set_sigterm_handler(handler):
    signal.signal(signal.SIGTERM, handler)

def ray_init(**options):
    # as `ray.init`, which puts its own way to end in place
    ray._private.utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
    {meanwhile}

signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
try:
    ray = MagicMock(init=ray_init, __file__="/nowhere/ray/__init__.py")
    ray._private.utils.set_sigterm_handler = set_sigterm_handler
    with connected(ray, "local"):
        pass
    {afterwards}
except BaseException as error:
    print(type(error).__name__, error)
print("ignored" if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN else "ours")
"""
ASKED = "signal.raise_signal(signal.SIGTERM)"
INTERRUPTED = "signal.raise_signal(signal.SIGINT)"
WHILE_FORKING = "os.register_at_fork(before=lambda: {}); subprocess.run(['true'], preexec_fn=os.getpid)"


def run(meanwhile: str = "pass", afterwards: str = "pass") -> list[str]:
    """Return what the process says: what was raised, and what SIGTERM does now."""
    script = PROCESS.format(meanwhile=meanwhile, afterwards=afterwards)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.strip() for line in done.stdout.splitlines()]


def test_a_process_that_is_asked_to_end_while_ray_starts_ends_its_own_way():
    assert run(meanwhile=ASKED) == ["AskedError", "ignored"]  # the way out is not cut short
    assert run(meanwhile=INTERRUPTED) == ["KeyboardInterrupt", "ours"]


@pytest.mark.parametrize(("signal", "raised"), [(ASKED, "AskedError"), (INTERRUPTED, "KeyboardInterrupt")])
def test_a_signal_that_comes_while_ray_starts_a_process_is_not_lost(signal, raised):
    assert run(meanwhile=WHILE_FORKING.format(signal))[0] == raised


def test_ray_that_does_not_start_is_not_waited_for_when_ctrl_c_is_pressed_again():
    assert run(meanwhile=f"{INTERRUPTED}; {INTERRUPTED}; print('went on')") == ["KeyboardInterrupt", "ours"]


@pytest.mark.parametrize(
    ("then", "said"), [("sys.exit(1)", "SystemExit 1"), ("raise KeyboardInterrupt", "KeyboardInterrupt")]
)
def test_what_goes_wrong_while_ray_starts_comes_through_and_the_way_to_end_is_our_own_again(then, said):
    assert run(meanwhile=then) == [said, "ours"]


def test_once_ray_has_started_the_way_to_end_is_our_own_again():
    assert run() == ["ours"]
    assert run(afterwards=ASKED) == ["AskedError", "ignored"]
