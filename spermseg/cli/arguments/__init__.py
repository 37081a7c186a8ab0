"""What commands are given: options, datasets, model files."""
