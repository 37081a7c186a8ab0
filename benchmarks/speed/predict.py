"""How fast and how exact is the predictor? Compares it with MONAI's sliding window, a plain loop, and whole pictures.

    python benchmarks/speed/predict.py

All ways have the same weights and pictures. They run in one process, in turn, so that other load on the machine affects
all alike. Each way turns pixels in memory into a probability map. The benchmark compares times, and masks at 0.5. The
exact mask is that of the whole picture, predicted at once in float32. Needs the packages of the group `benchmark`
(MONAI).

Prints a table and, as its last line, one JSON object of the figures.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from briefly_trained import THRESHOLD, VIEW, briefly_trained
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from tqdm import tqdm

from spermseg.micrograph.layout import aligned
from spermseg.model.predict import PredictConfig, Predictor, network_input
from spermseg.model.saved import SavedModel
from spermseg.synthetic.draw import DrawConfig, draw_micrograph

Way = Callable[[list[NDArray[np.uint8]]], list[NDArray[np.float32]]]
PX_A_CELL = 80_000
"""Pixels of a synthetic picture for each cell, as in a well filled field of view."""
TILE, OVERLAP = 256, 0.25
"""Size and overlap of MONAI's windows, as its users set them for 2D pictures."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run the same pictures through several predictors."""

    height: int = 2056
    width: int = 2456
    """Size of the pictures, px; the network sees them at this resolution."""
    pictures: int = 2
    """Pictures of a call."""
    repeats: int = 5
    """Calls of each way, in turn."""
    threads: int = 1
    """Compute threads on a CPU; a worker of the pipeline has 1."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""
    model: Path = Path("build/benchmarks/model.safetensors")
    """The model file; where there is no such file, a model is trained first."""


@dataclass(kw_only=True)
class Timed:
    """The times of one way, one entry a call, and the masks of its last call."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)

    def run(self, way: Way, pictures: list[NDArray[np.uint8]]) -> None:
        """Time one call."""
        cpu, wall = time.process_time(), time.perf_counter()
        maps = way(pictures)
        self.cpu_s.append(time.process_time() - cpu)
        self.wall_s.append(time.perf_counter() - wall)
        self.masks = [one >= THRESHOLD for one in maps]


def ours(saved: SavedModel, **how: str) -> Way:
    """Return the predictor of spermseg."""
    predictor = Predictor(saved, VIEW, PredictConfig(**how))  # type: ignore[arg-type]
    return lambda pictures: list(predictor.predict(pictures))


def whole(saved: SavedModel, device: str) -> Way:
    """Return the network on whole pictures, float32, padded by mirroring to a multiple that the network needs."""
    network = saved.network.to(device)

    @torch.inference_mode()
    def run(pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return [_cut(torch.sigmoid(network(_input(one, device))), one) for one in pictures]

    return run


def monai(saved: SavedModel, device: str) -> Way:
    """Return MONAI's sliding window with Gaussian weights, float32, as its documentation shows it."""
    network = saved.network.to(device)

    def whole(x: torch.Tensor) -> torch.Tensor:
        logits = sliding_window_inference(x, (TILE, TILE), 4, network, overlap=OVERLAP, mode="gaussian")
        assert isinstance(logits, torch.Tensor)  # a network of several outputs would give a tuple
        return logits

    @torch.inference_mode()
    def run(pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return [_cut(torch.sigmoid(whole(_input(one, device).contiguous())), one) for one in pictures]

    return run


def plain_loop(saved: SavedModel, device: str) -> Way:
    """Return the loop of a simple script: one tile after the other, float32, side by side without a halo."""
    network = saved.network.to(device)

    @torch.inference_mode()
    def run(pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        found = []
        for one in pictures:
            x = _input(one, device)
            probability = torch.empty(x.shape[2:])
            for y0 in range(0, x.shape[2], TILE):
                for x0 in range(0, x.shape[3], TILE):
                    tile = x[:, :, y0 : y0 + TILE, x0 : x0 + TILE].contiguous()
                    probability[y0 : y0 + TILE, x0 : x0 + TILE] = torch.sigmoid(network(tile))[0, 0].cpu()
            found.append(_cut(probability[None, None], one))
        return found

    return run


def _input(picture: NDArray[np.uint8], device: str) -> torch.Tensor:
    height, width = picture.shape[:2]
    padding = ((0, aligned(height) - height), (0, aligned(width) - width), (0, 0))
    return network_input(torch.from_numpy(np.pad(picture, padding, mode="symmetric")[np.newaxis]).to(device))


def _cut(probability: torch.Tensor, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = probability[0, 0, : picture.shape[0], : picture.shape[1]].cpu().numpy()
    return found


def agreement(masks: list[NDArray[np.bool_]], exact: list[NDArray[np.bool_]]) -> tuple[float, int]:
    """Return (IoU pooled over pictures, pixels that differ)."""
    both = sum(int((one & other).sum()) for one, other in zip(masks, exact, strict=True))
    either = sum(int((one | other).sum()) for one, other in zip(masks, exact, strict=True))
    return both / either if either else 1.0, either - both


def measure(options: Options, saved: SavedModel) -> tuple[dict[str, Timed], Predictor]:
    """Run all ways in turn."""
    device = options.device
    ways = {
        "ours": ours(saved, device=device),
        "ours, PyTorch": ours(saved, device=device, engine="torch"),
        "ours, float32": ours(saved, device=device, precision="float32"),
        "MONAI": monai(saved, device),
        "plain loop": plain_loop(saved, device),
        "whole picture": whole(saved, device),
    }
    cells = max(1, int(options.height * options.width / PX_A_CELL))
    config = DrawConfig(height=options.height, width=options.width, scale=0.5, cells=(cells, cells))
    pictures = [draw_micrograph(2000 + seed, config).pixels for seed in range(options.pictures)]
    timed = {name: Timed() for name in ways}
    with tqdm(total=(options.repeats + 1) * len(ways), desc="measuring", unit="call") as bar:
        for number in range(options.repeats + 1):
            for name, way in ways.items():
                if number == 0:
                    way(pictures[:1])  # warm
                else:
                    timed[name].run(way, pictures)
                bar.update()
    return timed, Predictor(saved, VIEW, PredictConfig(device=device))


def report(options: Options, timed: dict[str, Timed], chosen: Predictor) -> dict[str, object]:
    """Print the table and return the figures."""
    megapixels = options.pictures * options.height * options.width / 1e6
    exact = timed["whole picture"].masks
    figures: dict[str, object] = {
        "device": options.device,
        "engine": chosen.engine,
        "precision": str(chosen.dtype).removeprefix("torch."),
        "megapixels": round(megapixels, 2),
        "foreground": round(float(np.mean([one.mean() for one in exact])), 4),
    }
    print(f"{'':16}{'CPU s/Mpx':>10}{'Mpx/s':>8}{'x ours':>8}{'spread':>14}{'IoU':>9}{'differing px':>14}")
    for name, one in timed.items():
        ratios = [other / mine for other, mine in zip(one.cpu_s, timed["ours"].cpu_s, strict=True)]
        iou, differing = agreement(one.masks, exact)
        cpu, wall = statistics.median(one.cpu_s) / megapixels, statistics.median(one.wall_s) / megapixels
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        ratio = statistics.median(ratios)
        print(f"{name:16}{cpu:10.3f}{1 / wall:8.2f}{ratio:8.2f}{spread:>14}{iou:9.5f}{differing:14}")
        key = name.lower().replace(", ", "_").replace(" ", "_")
        figures |= {f"cpu_ratio_vs_{key}": round(ratio, 3), f"iou_{key}": round(iou, 5), f"differing_{key}": differing}
        figures |= {f"megapixels_a_second_{key}": round(1 / wall, 2)}
    return figures


def main() -> None:
    """Measure and print."""
    options = tyro.cli(Options)
    saved = briefly_trained(options.model)
    torch.set_num_threads(options.threads)
    timed, chosen = measure(options, saved)
    scores = saved.description
    print(f"model: Dice {scores.scores['val_dice']:.3f}, bfloat16 agrees {scores.mask_agreement:.5f}")
    print(json.dumps(report(options, timed, chosen)))


if __name__ == "__main__":
    main()
