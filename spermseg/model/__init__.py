"""The network, the model file and the predictor."""
