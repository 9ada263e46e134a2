"""Engines: what executes a sub-network, one file each."""
