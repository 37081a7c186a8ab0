"""Engines that run a network, and their precision: PyTorch, or OpenVINO, which is faster on CPUs."""

import importlib.util
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from spermseg.errors import ConfigError, first_line
from spermseg.model.folded import CellProbability, Gives
from spermseg.model.unet import UNet

EngineName = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16"]
LEAST_AGREEMENT = 0.999
"""`auto` takes bfloat16 where the IoU of the masks in bfloat16 with those in float32 is at least this."""
Engine = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Tiles (N, Y, X, 3) uint8 -> probabilities (N, ..., Y, X) float32, in an array of their own."""


def choose_device(device: str = "auto") -> torch.device:
    """Return the device: `auto` is the GPU when there is one.

    Raises:
        ConfigError: there is no such device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    if device == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if device not in known:
        raise ConfigError(f"got device {device!r}, but PyTorch sees only {', '.join(known)} here; give one, or `auto`")
    return torch.device(device)


def check_gpu() -> None:
    """Check that PyTorch can use the GPU of this machine. Ray counts every GPU that has a driver.

    Raises:
        ConfigError: PyTorch cannot use the GPU; the message says why, and on which machine.
    """
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the GPU of {socket.gethostname()} cannot be used: {first_line(error)}; mend its driver or its PyTorch, "
            "or give --gpu never"
        ) from error


def choose_engine(name: EngineName, device: torch.device) -> EngineName:
    """Return `torch` or `openvino`: `auto` is OpenVINO on a CPU, where OpenVINO is installed.

    Raises:
        ConfigError: there is no such engine, or OpenVINO is not installed, or OpenVINO would have to use a GPU.
    """
    if name not in get_args(EngineName):
        raise ConfigError(f"got engine {name!r}; one of {', '.join(get_args(EngineName))} is needed")
    there = importlib.util.find_spec("openvino") is not None
    if name == "auto":
        return "openvino" if there and device.type == "cpu" else "torch"
    if name == "openvino" and not there:
        raise ConfigError("OpenVINO is not installed; install spermseg[openvino], or give the engine `torch`")
    if name == "openvino" and device.type != "cpu":
        raise ConfigError(f"got the engine openvino with the device {device}; it is for CPUs here, give `torch`")
    return name


def choose_precision(precision: Precision, device: torch.device, mask_agreement: float | None) -> torch.dtype:
    """Return the type to compute in.

    `auto` is bfloat16 where the device computes fast in bfloat16 and the model's masks hardly change
    (`LEAST_AGREEMENT`).

    Args:
        precision: the name of the precision.
        device: where the network runs.
        mask_agreement: of the model (`precision.mask_agreement`); None is unknown.

    Raises:
        ConfigError: there is no such precision.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"got precision {precision!r}; one of {', '.join(get_args(Precision))} is needed")
    agrees = mask_agreement is not None and mask_agreement >= LEAST_AGREEMENT
    half = precision == "bfloat16" or (precision == "auto" and agrees and runs_bfloat16_fast(device))
    return torch.bfloat16 if half else torch.float32


def runs_bfloat16_fast(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16. Without them, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def make_engine(
    network: UNet, name: EngineName, device: torch.device, dtype: torch.dtype, *, gives: Gives = "cell"
) -> Engine:
    """Return an engine for a network, from the choices of the functions above. It uses as many threads as PyTorch."""
    module = CellProbability(network, half=dtype == torch.bfloat16, gives=gives)
    return OpenVinoEngine(module, dtype) if name == "openvino" else TorchEngine(module, device, dtype)


class TorchEngine:
    """PyTorch, channels-last, on a CPU or a GPU. Pixels travel to a GPU as bytes."""

    def __init__(self, network: CellProbability, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network."""
        x = torch.from_numpy(tiles)
        if self._device.type == "cuda":
            x = x.pin_memory().to(self._device, non_blocking=True)
        found: NDArray[np.float32] = self._network(x).cpu().numpy()
        return found


class OpenVinoEngine:
    """OpenVINO on the CPU, for tiles of any shape."""

    def __init__(self, network: CellProbability, dtype: torch.dtype) -> None:
        openvino = _import_openvino()
        example = torch.zeros(1, 64, 64, network.channels, dtype=torch.uint8)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch.jit, which it uses
            graph = openvino.convert_model(network, example_input=example, input=[[-1, -1, -1, network.channels]])
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        self._request = openvino.compile_model(graph, "CPU", settings).create_infer_request()

    def __call__(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network."""
        (found,) = self._request.infer(tiles, share_inputs=True).values()
        return np.asarray(found, np.float32)


def _import_openvino() -> Any:
    """Return OpenVINO without its telemetry, which reports each conversion to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # an import of it fails, as OpenVINO allows
    import openvino

    return openvino
