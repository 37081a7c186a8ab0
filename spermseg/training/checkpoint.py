"""The state of a training as one file in a folder. Reading the file runs no code from it."""

import pickle  # only for UnpicklingError
from pathlib import Path

import torch

from spermseg.errors import ModelFileError
from spermseg.training.fit import FitState

FILE = "state.pt"


def write_state(state: FitState, folder: Path) -> None:
    """Write the state into a folder that exists."""
    torch.save({name: getattr(state, name) for name in state.__dataclass_fields__}, folder / FILE)


def read_state(folder: Path) -> FitState:
    """Read a state. `weights_only` refuses everything except tensors and plain containers.

    Raises:
        ModelFileError: the file is damaged.
    """
    try:
        content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        return FitState(**content)
    except (OSError, RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelFileError(f"the checkpoint {folder / FILE} is damaged; train again from the start") from error
