"""Micrographs: from bytes to pixels, their quality, and the tiles that a network reads."""
