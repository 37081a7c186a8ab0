"""Annotated micrographs prepared: pairs, split, index."""
