"""Micrographs drawn with exact masks."""
