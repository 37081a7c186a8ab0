"""What a model is told about itself on the validation split."""

import numpy as np
import pytest
import torch

from spermseg.cells.confidence import Confidence
from spermseg.cells.instances import CellConfig
from spermseg.evaluation.pixel_metrics import confusion
from spermseg.micrograph.tiling import WholeFrame
from spermseg.model.unet import UNet
from spermseg.model.unet_config import UNetConfig
from spermseg.training.calibration import LEVELS, Calibrator, dice_curve, whole_cell
from spermseg.training.data.coverage import FULL, full_coverage
from spermseg.training.data.sampling import WorkingExample


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_curve_has_the_dice_of_the_mask_at_every_threshold(share):
    rng = np.random.default_rng(1)
    truth = rng.random((40, 50)) < share
    probability = (0.4 * truth + 0.6 * rng.random((40, 50))).astype(np.float32)
    curve = dice_curve(probability, truth)
    for level in range(LEVELS + 1):
        threshold = np.float32(level / LEVELS)
        clear = np.abs(probability - threshold) > 1e-5  # beside a threshold, rounding decides
        mask = np.where(clear, probability >= threshold, np.floor(probability * LEVELS + 1e-6) >= level)
        assert curve[level] == pytest.approx(confusion(mask, truth).dice), level


class FourPictures:
    """A validation split whose darkest pixels are cells."""

    def names(self, split):
        assert split == "val"
        return ["0", "1", "2", "3"]

    def load(self, name, view, classes):
        rng = np.random.default_rng(int(name))
        pixels = rng.integers(0, 256, (view.tile, view.tile, 3), dtype=np.uint8)
        return WorkingExample(pixels=pixels, coverage=full_coverage(pixels[..., :1] < 64))

    def native_cells(self, name, view, classes):
        return self.load(name, view, classes).coverage[..., 0] > 0


def network_that_sees_red(bias: float) -> UNet:
    """A network whose probability falls with a pixel's red, and is one half at `bias`."""
    network = UNet(UNetConfig(filters=(4,), bridge=4)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.zero_()
            if name in ("encoder.0.1.weight", "encoder.0.4.weight", "decoder.0.1.weight", "decoder.0.4.weight"):
                parameter.fill_(1)
        for convolution, source in (("encoder.0.0", 0), ("encoder.0.3", 0), ("decoder.0.0", 4), ("decoder.0.3", 0)):
            network.get_submodule(convolution).weight[0, source, 1, 1] = 1
        network.head.weight[0, 0] = -8
        network.head.bias[0] = 8 * bias
    return network


@pytest.mark.parametrize("bias", [0.25, 0.4, 0.15])
def test_the_threshold_is_where_validation_dice_is_best(bias):
    threshold = Calibrator(
        network=network_that_sees_red(bias), view=WholeFrame(size=64), data=FourPictures()
    ).choose_threshold()
    ideal = 1 / (1 + np.exp(-8 * (bias - 0.25)))  # where red is a quarter of white, as the truth has it
    assert threshold == pytest.approx(ideal, abs=0.011)


@pytest.mark.parametrize("given", [None, 0.3])
def test_calibration_chooses_a_threshold_only_where_none_is_given_and_fits_the_confidence_to_it(given):
    network, steps = network_that_sees_red(0.25), []

    def show(name):
        steps.append(name)
        return iter

    cells = CellConfig(min_area=0)
    calibrator = Calibrator(network=network, view=WholeFrame(size=64), data=FourPictures(), cells=cells, show=show)
    found = calibrator.calibrate(given)
    assert steps[:-2] == ([] if given else ["choosing the threshold"])
    assert steps[-2:] == ["fitting the confidence", "checking half precision"]
    assert found.threshold == (given or calibrator.choose_threshold())
    assert found.mask_agreement > 0.9
    pictures = [FourPictures().load(name, WholeFrame(size=64), ("cell",)) for name in "0123"]
    maps = [1 / (1 + np.exp(8 * (one.pixels[..., 0] / 255 - 0.25))) for one in pictures]
    said = [found.confidence.judge(one.astype(np.float32), found.threshold) for one in maps]
    came = [
        confusion(one >= found.threshold, two.coverage[..., 0] > 0).dice
        for one, two in zip(maps, pictures, strict=True)
    ]
    assert np.mean(said) == pytest.approx(np.mean(came), abs=0.01)


def test_the_whole_cell_is_its_own_class_or_the_union_of_the_parts():
    coverage = np.zeros((2, 2, 2), np.uint8)
    coverage[0, 0, 0] = coverage[1, 1, 1] = FULL
    example = WorkingExample(pixels=np.zeros((2, 2, 3), np.uint8), coverage=coverage)
    assert whole_cell(example, ("head", "cell")).tolist() == [[False, False], [False, True]]
    assert whole_cell(example, ("head", "tail")).tolist() == [[True, False], [False, True]]


class HeadsAndTails(FourPictures):
    """Black heads with grey tails, and grey tails alone, which are annotated in no picture."""

    def load(self, name, view, classes):
        assert classes == ("cell",)
        pixels, coverage = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64, 1), np.uint8)
        pixels[8:20, 4:16], pixels[12:15, 16:60], pixels[40:44, int(name) :] = 0, 50, 40
        coverage[8:20, 4:16] = coverage[12:15, 16:60] = FULL
        return WorkingExample(pixels=pixels, coverage=coverage)


@torch.inference_mode()
def test_where_cells_need_heads_the_threshold_and_the_confidence_are_those_of_cells_with_heads():
    one = network_that_sees_red(0.25)
    both = UNet(UNetConfig(filters=(4,), bridge=4, classes=("cell", "head"))).eval()
    weights = one.state_dict()
    weights["head.weight"], weights["head.bias"] = weights["head.weight"].repeat(2, 1, 1, 1), torch.tensor([2.0, 0.5])
    both.load_state_dict(weights)  # a head is darker: 0.6 where a pixel is black, 0.27 in a tail
    plain, require_head = (
        Calibrator(
            network=both,
            view=WholeFrame(size=64),
            data=HeadsAndTails(),
            cells=CellConfig(min_area=0, require_head=require_head),
            before=Confidence(slope=0),
        ).calibrate(0.5)
        for require_head in (False, True)
    )
    assert (plain.confidence.slope, require_head.confidence.slope) == (
        0,
        0,
    )  # as before: so few pictures tell nothing of it
    assert require_head.confidence.offset == pytest.approx(1)
    assert plain.confidence.offset < 0.85
    chosen = Calibrator(
        network=both, view=WholeFrame(size=64), data=HeadsAndTails(), cells=CellConfig(require_head=True)
    ).choose_threshold()
    assert chosen in np.arange(10, 91, 5) / 100


class FinerCells(FourPictures):
    """Cells that are less at the native resolution than where the network works: the darkest half of them."""

    def native_cells(self, name, view, classes):
        return self.load(name, view, classes).pixels[..., 0] < 32


def test_the_threshold_is_that_of_the_native_resolution():
    network, view = network_that_sees_red(0.25), WholeFrame(size=64)
    coarse = Calibrator(network=network, view=view, data=FourPictures()).choose_threshold()
    fine = Calibrator(network=network, view=view, data=FinerCells()).choose_threshold()
    assert fine > coarse + 0.1
