"""Ray processes that tests start by themselves, and end without touching any other Ray of the machine."""

import socket
import subprocess

import psutil


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a head with all that it started, and nothing else: never `ray stop`, which ends every Ray there is."""
    mine = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    for one in mine:
        if one.is_running():  # and still the same process: a number may be another's by now
            one.kill()
    psutil.wait_procs(mine, timeout=10)
