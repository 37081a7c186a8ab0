"""Sperm cell segmentation in digital micrographs, on Ray: training from annotations, and a nightly table of results."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spermseg.api import Model, Segmentation, load_model, read_table

__version__ = version("spermseg")
__all__ = ["Model", "Segmentation", "__version__", "load_model", "read_table"]


def __getattr__(name: str) -> Any:
    """Import `spermseg.api` on first use, so that the help of the command does not import PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module 'spermseg' has no attribute {name!r}")
    from spermseg import api

    return getattr(api, name)
