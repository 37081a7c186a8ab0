"""What training minimises, against values worked out by hand and against a thinning that is not soft."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from monai.losses.cldice import soft_skel
from skimage.morphology import skeletonize

from spermseg.training.losses import IGNORED, LOSSES, THINNINGS, segmentation_loss, soft_centreline


def test_the_paper_loss_is_binary_cross_entropy_and_dice_adds_what_is_missed():
    logits, target = torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))) / 2
    assert float(segmentation_loss(logits, target)) == pytest.approx(expected)
    p, q = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1))
    soft = 1 - (2 * p + 1) / (p + q + 1 + 1)
    assert float(segmentation_loss(logits, target, "bce+dice")) == pytest.approx(expected + soft)


def test_focal_tversky_is_one_minus_the_tversky_index_to_the_power_of_three_quarters():
    logits, target = torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    p, q = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1))
    index = (p + 1) / (p + 0.7 * (1 - p) + 0.3 * q + 1)
    assert float(segmentation_loss(logits, target, "focal-tversky")) == pytest.approx((1 - index) ** 0.75, rel=1e-5)


def ring(width: int) -> torch.Tensor:
    """A ring of this width, px: (1, 1, 96, 96)."""
    y, x = np.indices((96, 96))
    away = np.abs(np.hypot(y - 47.5, x - 47.5) - 30)
    return torch.from_numpy((away <= width / 2).astype(np.float32))[None, None]


@pytest.mark.parametrize("width", [3, 5, 7])
def test_the_soft_centreline_of_a_thin_thing_runs_along_its_skeleton(width):
    mask = ring(width)
    line, skeleton = soft_centreline(mask)[0, 0].numpy(), skeletonize(mask[0, 0].numpy() > 0)
    assert (line[mask[0, 0].numpy() == 0] == 0).all()
    near = np.hypot(*np.indices((96, 96)) - 47.5)
    assert np.abs(near[line > 0.5] - 30).max() <= 1.5  # as the skeleton does: half a pixel off at most, on either side
    assert (line > 0.5).sum() >= skeleton.sum() / 2


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_least_for_the_truth_falls_towards_it_and_has_a_finite_slope(name):
    target = ring(5)
    losses = []
    for certainty in (-4.0, 0.0, 4.0, 20.0):
        logits = ((2 * target - 1) * certainty).requires_grad_()
        loss = segmentation_loss(logits, target, name)
        loss.backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01


def test_the_centreline_loss_sees_a_tear_that_dice_hardly_sees():
    whole = ring(5)
    torn = whole.clone()
    torn[..., 45:51, :40] = 0
    logits = {"whole": 40 * whole - 20, "torn": 40 * torn - 20}
    lost = {
        name: float(segmentation_loss(logits["torn"], whole, name) - segmentation_loss(logits["whole"], whole, name))
        for name in ("bce+dice", "bce+dice+cldice")
    }
    assert lost["bce+dice+cldice"] > lost["bce+dice"] + 0.002


def test_the_dice_of_a_batch_is_that_of_all_its_pixels():
    target = ring(5)
    logits = 3 * torch.randn(2, 1, 96, 96)
    both = torch.cat([target, torch.zeros_like(target)])
    side_by_side = [torch.cat([one[:1], one[1:]], dim=-1) for one in (logits, both)]
    for name in LOSSES:
        if "cldice" not in name:  # a centreline that runs over the seam is another
            together = segmentation_loss(logits, both, name)
            assert float(together) == pytest.approx(float(segmentation_loss(*side_by_side, name)), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_ignored_has_no_part_in_the_loss_or_its_slope(name):
    target = ring(5)
    target[..., :20] = IGNORED
    losses, slopes = [], []
    for value in (-3.0, 8.0):
        logits = torch.zeros(1, 1, 96, 96)
        logits[..., :20] = value
        logits.requires_grad_()
        loss = segmentation_loss(logits, target, name)
        loss.backward()
        losses.append(loss.item())
        slopes.append(logits.grad)
    assert losses[0] == losses[1]
    assert not slopes[1][..., :20].any()
    assert slopes[1][..., 25:].any()


@pytest.mark.parametrize("name", ["bce", "bce+dice"])
def test_a_loss_of_soft_labels_is_least_where_the_probability_is_the_label(name):
    share = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0)).clamp(0.01, 0.99)
    exact = torch.logit(share)
    losses = [float(segmentation_loss(exact + shift, share, name)) for shift in (-1.0, -0.2, 0.0, 0.2, 1.0)]
    assert min(losses) == losses[2]
    assert losses[0] > losses[1] > losses[2] < losses[3] < losses[4]


@pytest.mark.parametrize("soft", [False, True])
def test_dice_and_the_soft_centreline_are_those_of_monai(soft):
    seeded = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 48, 64, generator=seeded)
    target = torch.rand(3, 2, 48, 64, generator=seeded)
    target = target if soft else (target > 0.7).float()
    ours = segmentation_loss(logits, target, "bce+dice") - segmentation_loss(logits, target, "bce")
    theirs = DiceLoss(sigmoid=True, batch=True, smooth_nr=1, smooth_dr=1, soft_label=soft)(logits, target)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-4)
    torch.testing.assert_close(soft_centreline(target), soft_skel(target, THINNINGS))
