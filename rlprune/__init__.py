"""rlprune: adaptive filter pruning of convolutional networks, framed as a Gymnasium environment."""
