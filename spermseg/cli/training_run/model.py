"""The results of a training: calibrated model files and a model card."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

import spermseg
from spermseg.annotation.annotation import HEAD
from spermseg.cli.training_run.folder import MODEL, settings_of, snapshot_name
from spermseg.model.description import ModelDescription
from spermseg.model.saved import SavedModel, encode_model
from spermseg.model.unet import UNet
from spermseg.recipes import Recipe
from spermseg.report.model_card import render_model_card
from spermseg.storage.filesystem import Location
from spermseg.training.calibration import Calibrator
from spermseg.training.data.source import TrainingData
from spermseg.training.fit import FitState
from spermseg.training.learner import Weights

SHOW_AFTER_S = 5.0
"""A shorter step shows no progress bar."""


def write_models(out: Location, chosen: Recipe, begun: SavedModel | None, data: TrainingData, state: FitState) -> None:
    """Write the model files of the snapshots and of the best epoch, and the model card."""
    settings = settings_of(chosen, begun, data)
    for epoch, weights in state.snapshots.items():
        description = _describe(chosen, settings, data, state, epoch, weights)
        out.child(snapshot_name(epoch)).write_bytes(encode_model(weights, description))
    description = _describe(chosen, settings, data, state, state.best_epoch, state.best_weights)
    out.child(MODEL).write_bytes(encode_model(state.best_weights, description))
    card = render_model_card(description, data.counts, state.best_epoch, len(state.history))
    out.child("model_card.md").write_bytes(card.encode())


def _describe(
    chosen: Recipe, settings: dict[str, Any], data: TrainingData, state: FitState, epoch: int, weights: Weights
) -> ModelDescription:
    """Calibrate the model of an epoch, and return the description for its file."""
    record = state.history[epoch - 1]
    network = UNet(chosen.network).eval()
    network.load_state_dict(weights)
    threshold = None if chosen.choose_threshold else chosen.cells.threshold
    cells = replace(chosen.cells, require_head=chosen.cells.require_head and HEAD in chosen.network.classes)
    calibrator = Calibrator(network=network, view=chosen.view, data=data, cells=cells, show=show_calibration)
    return ModelDescription(
        network=chosen.network,
        view=chosen.view,
        **vars(calibrator.calibrate(threshold)),
        min_area=cells.min_area,
        require_head=cells.require_head,
        recipe=chosen.name,
        settings=settings,
        training_data_sha256=data.sha256,
        scores={name: value for name, value in record.items() if name.startswith("val_")},
        calibration_data_sha256=data.sha256,
        version=spermseg.__version__,
    )


def show_calibration(name: str) -> Callable[[Sequence[str]], Iterable[str]]:
    """Return the progress bar of a step of a calibration."""
    return lambda names: tqdm(names, desc=name, unit="picture", leave=False, delay=SHOW_AFTER_S)
