"""Preparation of datasets from annotated micrographs: pairing, split and index."""
