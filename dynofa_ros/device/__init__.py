"""Device layer: what a board is, what its clocks, power and temperatures are, real or simulated. No ROS."""
