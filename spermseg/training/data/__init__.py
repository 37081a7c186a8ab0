"""Training data: datasets and synthetic micrographs, tiles, augmentation, soft targets."""
