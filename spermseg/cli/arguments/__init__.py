"""Arguments of the commands: options, datasets, model files."""
