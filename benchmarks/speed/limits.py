"""How near is the network to the limits of the hardware? Compares megapixels a second with a roofline.

    python benchmarks/speed/limits.py

Two limits of this machine are measured: arithmetic, by a large matrix product, and memory bandwidth, by a copy larger
than any cache. The network's operations and bytes for each pixel are counted. Each layer reads its input once and
writes its output once; work between layers is taken as free. Each limit, divided by the network's need, is a rate; the
lower rate is the allowed one. The measured time is of the network alone, with pixels and probabilities on the device.

Runs on a GPU where there is one, else on the CPU. Prints a table and, as its last line, one JSON object of the figures.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from briefly_trained import briefly_trained
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from spermseg.model.folded import CellProbability

PROBED = 512
"""Side of the picture on which operations and bytes are counted, px."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare the speed of the model alone with the limits of the machine."""

    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    """The device to measure."""
    tile: int = 1024
    """Side of the windows, px."""
    batch: int | None = None
    """Windows at once (a GPU: 32, a CPU: 2)."""
    matrix: int | None = None
    """Side of the matrices (a GPU: 8192, a CPU: 2048)."""
    copied: int | None = None
    """Bytes of the copy (a GPU: 4 GiB, a CPU: 1 GiB)."""
    seconds: float = 5
    """Seconds for which each measurement is repeated; the median counts."""
    threads: int = 1
    """Compute threads on a CPU."""
    model: Path = Path("build/benchmarks/model.safetensors")
    """The model file; where there is no such file, a model is trained first."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations and memory traffic of a network for one pixel of its input."""

    flop: float
    """Operations; a multiplication with its addition counts as two."""
    moved: float
    """Bytes read and written."""


def timed(options: Options, work: Callable[[], object]) -> float:
    """Return the median seconds of a call; on a GPU, until the GPU has finished."""
    timer = Timer("work()", globals={"work": work}, num_threads=options.threads)
    return float(timer.blocked_autorange(min_run_time=options.seconds).median)


def flop_a_second(options: Options, dtype: torch.dtype) -> float:
    """Return the operations a second of a matrix product."""
    side = options.matrix or (8192 if options.device == "cuda" else 2048)
    one, other = (torch.randn(side, side, device=options.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / timed(options, lambda: one @ other)


def bytes_a_second(options: Options) -> float:
    """Return the bytes a second of a copy on the device, reads and writes together."""
    count = options.copied or (2**32 if options.device == "cuda" else 2**30)
    source = torch.ones(count, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)
    return 2 * count / timed(options, lambda: target.copy_(source))


@contextmanager
def counted_bytes(network: nn.Module, width: int) -> Iterator[list[int]]:
    """Record the bytes that each layer reads and writes, with `width` bytes a value."""
    moved: list[int] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weights = sum(one.numel() for one in layer.parameters())
        moved.append(width * (sum(one.numel() for one in inputs) + output.numel() + weights))

    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d | nn.MaxPool2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield moved
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def work_of(network: CellProbability, dtype: torch.dtype) -> Work:
    """Return the work of a network for a pixel in a precision; it is counted on the CPU, in float32."""
    picture = torch.zeros(1, PROBED, PROBED, network.channels, dtype=torch.uint8)
    with counted_bytes(network, dtype.itemsize) as moved, FlopCounterMode(display=False) as counter:
        network(picture)
    pixels = PROBED**2
    ends = network.channels + torch.float32.itemsize  # bytes of pixels come in, and a probability goes out
    return Work(flop=counter.get_total_flops() / pixels, moved=sum(moved) / pixels + ends)


def model_only(options: Options, network: CellProbability, *, compiled: bool) -> float:
    """Return pixels a second of a network, for tiles that are already on the device."""
    batch = options.batch or (32 if options.device == "cuda" else 2)
    shape = (batch, options.tile, options.tile, network.channels)
    tiles = torch.randint(256, shape, dtype=torch.uint8, device=options.device)
    run = torch.compile(network, mode="max-autotune") if compiled else network
    with torch.inference_mode():
        run(tiles)
        return batch * options.tile**2 / timed(options, torch.inference_mode()(lambda: run(tiles)))


def measure(options: Options, dtype: torch.dtype) -> dict[str, float]:
    """Measure one precision, print its lines and return its figures."""
    name = str(dtype).removeprefix("torch.")
    network = CellProbability(briefly_trained(options.model).network, half=dtype == torch.bfloat16)
    work = work_of(network, dtype)
    arithmetic, memory = flop_a_second(options, dtype) / work.flop, bytes_a_second(options) / work.moved
    allowed = min(arithmetic, memory)
    print(f"{name}: {work.flop / 2e3:.1f} GMAC and {work.moved / 1e3:.2f} GB a megapixel")
    print(f"  arithmetic allows {arithmetic / 1e6:10.1f} Mpx/s ({arithmetic * work.flop / 1e12:.2f} TFLOP/s measured)")
    print(f"  memory allows     {memory / 1e6:10.1f} Mpx/s ({memory * work.moved / 1e9:.1f} GB/s measured)")
    figures = {f"{name}_allowed_mpx_a_second": round(allowed / 1e6, 2)}
    ready = network.to(options.device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for way, compiled in {"PyTorch": False, "compiled": True}.items():
        rate = model_only(options, ready, compiled=compiled)
        print(f"  {way:17} {rate / 1e6:10.1f} Mpx/s, {rate / allowed:.0%} of it")
        figures |= {f"{name}_{way.lower()}_mpx_a_second": round(rate / 1e6, 2)}
        figures |= {f"{name}_{way.lower()}_of_allowed": round(rate / allowed, 3)}
    return figures


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    figures = measure(options, torch.float32) | measure(options, torch.bfloat16)
    print(json.dumps({"device": options.device, "tile": options.tile} | figures))


if __name__ == "__main__":
    main()
