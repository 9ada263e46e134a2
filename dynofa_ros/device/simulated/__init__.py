"""The simulated device: a board in explicit time."""
