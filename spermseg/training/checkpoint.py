"""A training's state as one file in a folder, read without running code from them."""

import pickle  # for the name of its error only
from pathlib import Path

import torch

from spermseg.errors import ModelFileError
from spermseg.training.fit import FitState

FILE = "state.pt"


def write_state(state: FitState, folder: Path) -> None:
    """Write the state into a folder that exists."""
    torch.save({name: getattr(state, name) for name in state.__dataclass_fields__}, folder / FILE)


def read_state(folder: Path) -> FitState:
    """Read a state; `weights_only` refuses everything but tensors and plain containers.

    Raises:
        ModelFileError: it is damaged.
    """
    try:
        content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        return FitState(**content)
    except (OSError, RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelFileError(f"the checkpoint {folder / FILE} is damaged; train again from the start") from error
