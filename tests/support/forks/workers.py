"""Ray workers that are forks of a process which has imported what they need: each starts in a tenth of a second.

A worker of Ray is a Python process that imports Ray, Ray Data and PyTorch anew. This costs up to four seconds of a CPU,
and a test of the pipeline or of a training needs six to ten workers. Here the raylet starts a small program in the
place of Python. The program hands the command on to a process that has imported all but Ray. That process forks one
process for each job and node, which imports Ray with the environment of that job, and which forks the workers of the
job. Each worker runs Ray's own `default_worker.py`. A worker whose `runtime_env` is more than variables of the
environment is started by Python as ever.
"""

import argparse
import gc
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from support.forks.children import children_of, fork_isolated_children, serve_children
from support.forks.process import STDIO, become

TESTS = Path(__file__).parents[2]
WORKER, IN_ITS_ENVIRONMENT = "default_worker.py", "setup_worker.py"
LONGEST_COMMAND = 1 << 17
JOBS = 6
"""Jobs whose process is kept."""
IN_PLACE_OF_PYTHON = """#!{python} -IS
import os, sys
if not sys.argv[1].endswith({workers!r}):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
import json, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    command = dict(words=sys.argv[1:], environment=dict(os.environ), folder=os.getcwd())
    socket.send_fds(server, [json.dumps(command).encode()], {stdio!r})
"""
LAZY = (
    "absl.logging",
    "openvino.frontend.pytorch.patch_model",
    "openvino.tools.ovc",
    "torch.distributed.tensor",
    "sympy",
)
"""What is imported when the first picture is segmented."""
WITHOUT_RAY = (
    *LAZY,
    *("laws.readers", "spermseg.batch.worker.isolation", "tyro"),
    *("albumentations", "boto3", "cv2", "pandas", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "skimage"),
    *("torch", "spermseg.batch.worker.messages", "spermseg.batch.worker.segment", "spermseg.training.fit"),
    *("spermseg.training.job", "spermseg.training.progress"),
)
WITH_RAY = ("ray.data", "ray.train.torch", "spermseg.batch.pipeline", "spermseg.training.distributed")


@contextmanager
def forking_python() -> Iterator[Path]:
    """Have the processes that fork until the block ends; yield the program that stands in the place of Python."""
    folder = Path(tempfile.mkdtemp(prefix="fw", dir="/tmp"))  # a socket lies in it: its path may not be long
    python, address, children = folder / "python", str(folder / "socket"), str(folder / "children")
    python.write_text(
        IN_PLACE_OF_PYTHON.format(
            python=sys.executable, workers=(WORKER, IN_ITS_ENVIRONMENT), address=address, stdio=list(STDIO)
        )
    )
    python.chmod(0o755)
    command = [sys.executable, "-m", "support.forks.workers", address, children]
    server = subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        with children_of(children):
            yield python
    finally:
        end_all_of(folder)
        server.wait()
        server.stdin.close()
        server.stdout.close()
        shutil.rmtree(folder)


def end_all_of(folder: Path) -> None:
    """Kill the processes that fork, and the forks that have outlived who asked for them."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(word.startswith(f"{folder}/") for word in process.cmdline()):
                process.kill()


@contextmanager
def started_with(python: Path) -> Iterator[None]:
    """Let the workers of every node that this process starts meanwhile be started by another program than Python."""
    with patch.object(sys, "executable", str(python)):  # which Ray asks for
        yield


def started_by(program: str, python: Path) -> list[str]:
    """Return the command of a Python program whose own Ray has its workers started by another program than Python."""
    return [sys.executable, "-c", f"import sys; sys.executable = {str(python)!r}\n{program}"]


def serve(address: str) -> None:
    """Hand each command that comes to the process of its job, until who has started this process is gone."""
    jobs: dict[str, socket.socket] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(64)
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            asking, _ = listening.accept()
            with asking:
                command, files = receive(asking)
            if not command:
                continue
            job = of_ray(json.loads(command)["environment"])
            if job not in jobs:
                jobs[job] = fork_job(job, listening, jobs)
            socket.send_fds(jobs[job], [command], files)
            close(files)
            if len(jobs) > JOBS:
                jobs.pop(next(iter(jobs))).close()


def receive(sender: socket.socket) -> tuple[bytes, list[int]]:
    command, files, _, _ = socket.recv_fds(sender, LONGEST_COMMAND, len(STDIO))
    return command, files


def close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def of_ray(environment: dict[str, str]) -> str:
    """Return what Ray reads of an environment when it is imported: `RAY_JOB_ID`, too, in its native code."""
    return json.dumps({name: value for name, value in environment.items() if name.startswith("RAY_")}, sort_keys=True)


def fork_job(job: str, listening: socket.socket, others: dict[str, socket.socket]) -> socket.socket:
    """Start the process of a job; return what takes commands to it. It ends when that is closed."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        its.close()
        return ours
    for one in (ours, listening, *others.values()):
        one.close()
    os.environ.update(json.loads(job))
    for name in WITH_RAY:
        import_module(name)
    fork_isolated_children()
    gc.freeze()  # a fork that collects garbage would copy every page of what is imported
    while True:
        command, files = receive(its)
        if not command:
            os._exit(0)
        if not os.fork():
            its.close()
            run_worker(json.loads(command), files)
        close(files)


def run_worker(command: dict[str, Any], files: list[int]) -> None:
    """Be the worker of a command until it ends."""
    os.setpgrp()  # as Ray has it: when a worker dies, its raylet ends the whole process group
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    become(command["environment"], command["folder"], files)
    draw_other_numbers()
    sys.argv = without_runtime_env(command["words"])
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        os._exit(0)


def without_runtime_env(words: list[str]) -> list[str]:
    """Return the words of a worker, with the variables of its `runtime_env` set; become Python where it asks for more.

    This is what Ray's own `setup_worker.py` does, which replaces itself by another Python always.
    """
    if not words[0].endswith(IN_ITS_ENVIRONMENT):
        return words
    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    given, rest = parser.parse_known_args(words[1:])
    context = json.loads(given.serialized_runtime_env_context)
    variables, python = context.pop("env_vars", {}), context.pop("py_executable", sys.executable)
    if any(context.values()) or python != sys.executable or not rest[0].endswith(WORKER):
        os.execv(sys.executable, [sys.executable, *words])
    sys.modules["ray"]._private.utils.update_envs(variables)
    return rest


def draw_other_numbers() -> None:
    """Let the random numbers of this fork be none of its siblings': those of NumPy, and those that Ray makes ids of."""
    sys.modules["numpy"].random.seed()
    for _ in range(random.randrange(10_000)):
        sys.modules["ray"].WorkerID.from_random()


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    for module in WITHOUT_RAY:
        import_module(module)
    assert "ray" not in sys.modules
    gc.freeze()
    serve_children(sys.argv[2])
    serve(sys.argv[1])
