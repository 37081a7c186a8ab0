"""What a network learns from: datasets and drawings, tiles, augmentation, soft labels."""
