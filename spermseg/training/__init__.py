"""Training: data, augmentation, losses, optimisers, the loop, calibration, and Ray Train."""
