"""Families of supernets, one file each: their spaces, configurations, layers and checkpoints."""
