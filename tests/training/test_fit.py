"""The training loop, in this process: it learns, it can be cut anywhere, and it is the same every time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spermseg.errors import ConfigError, ModelFileError
from spermseg.micrograph.tiling import Tiles, WholeFrame
from spermseg.model.unet_config import UNetConfig
from spermseg.training.checkpoint import FILE, read_state, write_state
from spermseg.training.config import TrainConfig
from spermseg.training.data.coverage import full_coverage
from spermseg.training.data.sampling import Sampler, WorkingExample
from spermseg.training.fit import Fit, ProcessGroup

SMALL = UNetConfig(filters=(8, 8), bridge=8)
CONFIG = TrainConfig(epochs=4, batch_size=4, learning_rate=1e-2, augment="paper", expansion=2, seed=3)


def blob(seed: int, shape=(48, 48)) -> WorkingExample:
    """A dark disc on a bright, noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    centre, radius = rng.uniform(12, 36, 2), rng.uniform(6, 12)
    mask = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    pixels = np.where(mask[..., None], 80, 200) + rng.normal(0, 10, (*shape, 3))
    return WorkingExample(pixels=pixels.clip(0, 255).astype(np.uint8), coverage=full_coverage(mask[..., None]))


TRAIN, VAL = [blob(seed) for seed in range(8)], [blob(seed) for seed in range(100, 103)]


def fit(config=CONFIG, **changes) -> Fit:
    train = Sampler(examples=TRAIN, tile=48, scale=0.5, config=config)
    return Fit(network_config=SMALL, view=WholeFrame(size=48), config=config, train=train, val=VAL, **changes)


@pytest.fixture(scope="module")
def uninterrupted():
    return fit().run()


def test_it_learns_discs_it_has_never_seen(uninterrupted):
    assert uninterrupted.history[-1]["val_dice"] > 0.85
    assert uninterrupted.history[-1]["train_loss"] < uninterrupted.history[0]["train_loss"]


def test_the_history_has_a_record_an_epoch_with_loss_and_scores_of_both_splits(uninterrupted):
    assert [record["epoch"] for record in uninterrupted.history] == [1, 2, 3, 4]
    wanted = {
        f"{split}_{name}" for split in ("train", "val") for name in ("loss", "iou", "dice", "precision", "recall")
    }
    assert set(uninterrupted.history[0]) == wanted | {"epoch"}


def test_the_kept_weights_are_those_of_the_epoch_with_the_best_validation_dice(uninterrupted):
    dice = [record["val_dice"] for record in uninterrupted.history]
    assert uninterrupted.best_epoch == int(np.argmax(dice)) + 1
    shorter = fit(replace(CONFIG, epochs=uninterrupted.best_epoch)).run()
    assert all(torch.equal(uninterrupted.best_weights[name], tensor) for name, tensor in shorter.weights.items())


@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_training_has_the_curves_and_weights_of_an_uninterrupted_one(uninterrupted, cut, tmp_path):
    write_state(fit(replace(CONFIG, epochs=cut)).run(), tmp_path)
    resumed = fit().run(read_state(tmp_path))
    assert resumed.history == uninterrupted.history
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in uninterrupted.weights.items())
    assert resumed.best_epoch == uninterrupted.best_epoch


ONE_CYCLE = replace(CONFIG, schedule="one-cycle")


def test_one_cycle_rises_to_the_learning_rate_in_a_third_of_the_steps_and_falls_to_nothing():
    rates = []
    training = fit(ONE_CYCLE)
    training.run(on_step=lambda report: rates.append(training.learner.optimizers["adam"].param_groups[0]["lr"]))
    assert len(rates) == 16
    peak = int(np.argmax(rates))
    assert 3 <= peak <= 5
    assert rates[peak] == pytest.approx(CONFIG.learning_rate, rel=0.05)
    assert rates == [*sorted(rates[:peak]), *sorted(rates[peak:], reverse=True)]
    assert rates[-1] < CONFIG.learning_rate / 1e4


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_resumed_one_cycle_goes_on_where_it_was(tmp_path, optimizer):
    """A run's length is part of its schedule, so the cut one is stopped rather than made shorter."""
    config = replace(ONE_CYCLE, optimizer=optimizer)
    whole = fit(config).run(on_epoch=lambda state: state.epoch == 2 and write_state(state, tmp_path))
    resumed = fit(config).run(read_state(tmp_path))
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())


WITH_EMA = replace(CONFIG, ema_decay=0.2, weight_decay=0.01)


def learn_together(rank: int, folder: Path) -> None:
    """One of two workers: train an epoch, and write down what is scored."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    config = replace(WITH_EMA, epochs=1)
    train = Sampler(examples=TRAIN, tile=48, scale=0.5, config=config, rank=rank, workers=2)
    process_group = ProcessGroup(rank=rank, size=2)
    together = Fit(
        network_config=SMALL, view=WholeFrame(size=48), config=config, train=train, val=VAL, process_group=process_group
    )
    together.run()
    torch.save(together.learner.evaluated.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_workers_score_one_network_the_one_that_is_kept(tmp_path):
    """On CPUs each has statistics of its own pictures; a resumed training would begin with those of the first."""
    torch.multiprocessing.spawn(learn_together, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_ema_of_the_weights_is_what_is_scored_and_kept():
    steps = []
    training = fit(replace(WITH_EMA, epochs=1))
    state = training.run(on_step=lambda _: steps.append(training.learner.state()))
    name = "head.weight"
    by_hand = steps[0]["weights"][name]
    shares = [2 / 11, *[0.2] * (len(steps) - 2)]  # (1 + n) / (10 + n), up to 0.2
    for share, step in zip(shares, steps[1:], strict=True):
        by_hand = share * by_hand + (1 - share) * step["weights"][name]
    assert torch.equal(state.best_weights[name], steps[-1]["ema"][name])
    assert torch.allclose(steps[-1]["ema"][name], by_hand, atol=1e-6)
    assert not torch.equal(steps[-1]["ema"][name], steps[-1]["weights"][name])
    for weights, is_scored in ((steps[-1]["ema"], True), (steps[-1]["weights"], False)):
        again = fit(replace(CONFIG, epochs=1))
        again.learner.network.load_state_dict(weights)
        assert (again._validate().items() <= state.history[-1].items()) is is_scored


def test_a_resumed_training_goes_on_with_the_ema_that_it_had(tmp_path):
    whole = fit(WITH_EMA).run(on_epoch=lambda state: state.epoch == 2 and write_state(state, tmp_path))
    resumed = fit(WITH_EMA).run(read_state(tmp_path))
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.ema[name], tensor) for name, tensor in whole.ema.items())
    assert all(torch.equal(resumed.best_weights[name], tensor) for name, tensor in whole.best_weights.items())


def test_a_training_that_starts_from_weights_begins_where_they_are(uninterrupted):
    still = replace(CONFIG, epochs=1, learning_rate=1e-9, freeze_batch_norm=True)
    begun = fit(still, first_weights=uninterrupted.best_weights).run()
    best = uninterrupted.history[uninterrupted.best_epoch - 1]
    assert begun.history[0]["val_dice"] == pytest.approx(best["val_dice"], abs=1e-3)


def test_bfloat16_learns_too_by_other_steps(uninterrupted):
    half = fit(replace(CONFIG, precision="bfloat16")).run()
    assert half.history != uninterrupted.history
    assert half.history[-1]["val_dice"] > 0.75


def test_another_seed_is_another_training(uninterrupted):
    assert fit(replace(CONFIG, seed=4, epochs=1)).run().history[0] != uninterrupted.history[0]


def test_a_finished_training_has_nothing_left_to_do(uninterrupted):
    seen = []
    assert fit().run(uninterrupted, on_epoch=seen.append) is uninterrupted
    assert seen == []


def test_every_step_is_reported_with_the_epochs_that_are_done():
    reports = []
    fit(replace(CONFIG, epochs=2)).run(on_step=reports.append)
    assert [(report.epoch, report.step, report.steps) for report in reports] == [
        (epoch, step, 4) for epoch in (1, 2) for step in (1, 2, 3, 4)
    ]
    assert [len(report.history) for report in reports] == [0] * 4 + [1] * 4


def test_tiles_train_on_random_squares_and_validate_whole_pictures():
    big = [blob(seed, (70, 90)) for seed in range(6)]
    config = replace(CONFIG, epochs=8, expansion=8, loss="bce+dice", augment="clinic")
    tiles = Fit(
        network_config=SMALL,
        view=Tiles(scale=1.0, tile=48, halo=16),
        config=config,
        train=Sampler(examples=big, tile=48, scale=0.5, config=config),
        val=[blob(seed, (70, 90)) for seed in (200, 201, 202)],
    )
    state = tiles.run()
    assert state.history[state.best_epoch - 1]["val_dice"] > 0.8


def test_frozen_batch_norm_keeps_its_statistics():
    state = fit(replace(CONFIG, epochs=1, freeze_batch_norm=True)).run()
    means = [tensor for name, tensor in state.weights.items() if name.endswith("running_mean")]
    assert means
    assert all(torch.equal(mean, torch.zeros_like(mean)) for mean in means)


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"augment": "none"}, {"ema_decay": 1.0}]
)
def test_settings_that_cannot_train_are_refused(change):
    with pytest.raises(ConfigError):
        replace(CONFIG, **change)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_one_line_and_runs_no_code(content, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged"):
        read_state(tmp_path)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    torch.save({"epoch": TrainConfig()}, tmp_path / FILE)  # any class of ours would do: only tensors are read
    with pytest.raises(ModelFileError, match="damaged"):
        read_state(tmp_path)
