"""Predictions compared with annotations: pixels, shapes, objects, confidence."""
