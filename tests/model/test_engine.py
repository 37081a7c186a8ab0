"""Engines: both give the same, none is taken that is not there, and bfloat16 only where it is fast and right."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.untrained import SMALL, trained_looking

from spermseg.errors import ConfigError
from spermseg.model import engine
from spermseg.model.engine import choose_device, choose_engine, choose_precision, make_engine
from spermseg.model.unet_config import UNetConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "config",
    [SMALL, UNetConfig(), UNetConfig(filters=(4,), bridge=4, subpixel=2, classes=("a", "b"))],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_engines_give_the_same_for_tiles_of_any_shape(config, dtype):
    network = trained_looking(config)
    fast, plain = (make_engine(network, name, CPU, dtype) for name in ("openvino", "torch"))
    for shape in ((1, 64, 96), (3, 32, 32), (2, 96, 64)):
        tiles = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        found, expected = fast(tiles), plain(tiles)
        assert found.dtype == expected.dtype == np.float32
        assert found.shape == expected.shape == shape
        assert np.allclose(found, expected, atol=1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_what_an_engine_gave_stays_when_it_is_used_again(name):
    run = make_engine(trained_looking(SMALL), name, CPU, torch.float32)
    first = run(np.zeros((1, 32, 32, 3), np.uint8))
    kept = first.copy()
    run(np.full((1, 32, 32, 3), 255, np.uint8))
    assert np.array_equal(first, kept)


def test_openvino_reports_to_nobody():
    said = "from spermseg.model.engine import _import_openvino as get; get(); import openvino.tools.ovc, sys; "
    said += "from openvino.tools.ovc import convert_impl as c; print(c.tm.__name__, sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"]


def test_auto_is_openvino_on_a_cpu_where_it_is_installed(monkeypatch):
    assert choose_engine("auto", CPU) == "openvino"
    assert choose_engine("auto", GPU) == "torch"
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    assert choose_engine("auto", CPU) == "torch"
    with pytest.raises(ConfigError, match=r"not installed; install spermseg\[openvino\]"):
        choose_engine("openvino", CPU)


def test_engines_that_cannot_be_used_say_what_is_needed():
    with pytest.raises(ConfigError, match="openvino with the device cuda; it is for CPUs here"):
        choose_engine("openvino", GPU)
    with pytest.raises(ConfigError, match="one of auto, torch, openvino is needed"):
        choose_engine("tensorrt", CPU)


@pytest.mark.parametrize(
    ("precision", "fast", "agreement", "expected"),
    [
        ("auto", True, 0.9995, torch.bfloat16),
        ("auto", True, 0.99, torch.float32),
        ("auto", True, None, torch.float32),
        ("auto", False, 1.0, torch.float32),
        ("bfloat16", False, None, torch.bfloat16),
        ("float32", True, 1.0, torch.float32),
    ],
)
def test_bfloat16_is_taken_where_it_is_fast_and_changes_no_mask_or_was_asked_for(
    monkeypatch, precision, fast, agreement, expected
):
    monkeypatch.setattr(engine, "runs_bfloat16_fast", lambda device: fast)
    assert choose_precision(precision, CPU, agreement) == expected


def test_a_precision_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="one of auto, float32, bfloat16 is needed"):
        choose_precision("float16", CPU, None)


def test_auto_is_a_gpu_where_there_is_one_and_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for absent in ("cuda", "cuda:0", "warp"):
        with pytest.raises(ConfigError, match=f"got device '{absent}', but PyTorch sees only cpu here"):
            choose_device(absent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="cpu, cuda, cuda:0, cuda:1 here"):
        choose_device("cuda:2")
