"""What calibration images tell about a network: what its layers read, and the Gram matrices and statistics of it."""
