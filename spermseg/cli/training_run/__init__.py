"""A training of the command: its folder, its progress, its models."""
