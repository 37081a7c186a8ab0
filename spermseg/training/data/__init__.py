"""What a network learns from: datasets and synthetic micrographs, tiles, augmentation, soft labels."""
