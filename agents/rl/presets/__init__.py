"""Hyperparameters of the learning algorithms, in rl-zoo's YAML format."""
