"""What has learned: the network, the model file, the predictor."""
