"""How it learns: dataset, augmentation, losses, metrics, the loop, and Ray Train."""
