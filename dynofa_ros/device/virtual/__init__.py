"""A virtual board: the kernel files of a real board in front of the simulated SoC, for the real backend."""
