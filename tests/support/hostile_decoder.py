"""A decoder that does to its process what a hostile picture can do, on pictures that are marked for it."""

import ctypes
import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from spermseg.batch.worker.process import Segmenting
from spermseg.errors import ConfigError
from spermseg.micrograph.decode import Micrograph, decode_micrograph
from spermseg.micrograph.tiling import View
from spermseg.model.engine import OpenVinoEngine, TorchEngine

MARK = b"hostile picture: "


def segfault() -> None:
    ctypes.string_at(0)


def hang() -> None:
    time.sleep(10**6)


def hang_with_the_interpreter_locked() -> None:
    ctypes.PyDLL(None).sleep(10**6)


def exhaust_memory() -> None:
    taken = []
    while True:
        taken.append(np.empty(2**28, np.uint8))  # of which no byte is touched: a busy machine would need long for it


def exit_quietly() -> None:
    os._exit(0)


def fail() -> None:
    raise ZeroDivisionError("no pixel\nat all")


def poison() -> None:
    if _poisoned:
        os.abort()
    _poisoned.append(True)


def find_memory_taken() -> None:
    """Find too little memory left, but in a process that has it to itself."""
    if multiprocessing.parent_process() is None:
        raise MemoryError


def break_the_gpu() -> None:
    """Leave this process as an error of CUDA's does: nothing that it computes succeeds any more."""

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    TorchEngine.__call__ = OpenVinoEngine.__call__ = fail  # type: ignore[assignment,method-assign]
    Segmenting.check_device = check_gpu_that_is_broken  # type: ignore[method-assign]


def check_gpu_that_is_broken(self: Segmenting) -> None:
    raise ConfigError("the GPU of this machine cannot be used")


def nothing() -> None:
    pass


DEEDS: dict[bytes, Callable[[], None]] = {
    b"segfault": segfault,
    b"abort": os.abort,
    b"hang": hang,
    b"lock": hang_with_the_interpreter_locked,
    b"memory": exhaust_memory,
    b"exit": exit_quietly,
    b"crowd": find_memory_taken,
    b"fail": fail,  # an exception that no decoder should raise
    b"cuda": break_the_gpu,
    b"poison": poison,  # the next picture will crash
    b"strange": nothing,  # what comes back is no picture
}
_poisoned: list[bool] = []
"""Of this process."""


def marked(picture: bytes, deed: bytes) -> bytes:
    """Return a picture that is whole, and hostile to `decode`."""
    return picture + MARK + deed


def decode(data: bytes, *, max_megapixels: float, view: View, log: Path | None = None) -> Micrograph:
    """Decode a picture, unless it is marked: then do what it is marked for. Writes a line a picture to `log`."""
    if log is not None:
        with log.open("a") as file:
            file.write(f"{hashlib.sha256(data).hexdigest()} {os.getpid()}\n")
    _, found, deed = data.rpartition(MARK)
    if found or _poisoned:
        DEEDS[deed if found else b"abort"]()
    picture = decode_micrograph(data, max_megapixels=max_megapixels, view=view)
    return SimpleNamespace(pixels=picture.pixels) if deed == b"strange" else picture  # type: ignore[return-value]


def logging_decode(log: Path) -> Callable[..., Micrograph]:
    """Return `decode` that writes to a log."""
    return partial(decode, log=log)


def waiting_decode(data: bytes, *, max_megapixels: float, view: View, until: Path, seconds: float) -> Micrograph:
    """Decode a picture once a file is there, and take so long for it at least."""
    while not until.exists():
        time.sleep(0.2)
    time.sleep(seconds)
    return decode_micrograph(data, max_megapixels=max_megapixels, view=view)
