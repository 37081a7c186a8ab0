"""Sperm cell segmentation in digital micrographs, from annotated images to a nightly table, on Ray."""

from importlib.metadata import version

__version__ = version("spermseg")
