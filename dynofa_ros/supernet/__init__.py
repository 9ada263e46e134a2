"""Supernets: one set of weights, executed partially through masks."""

from dynofa_ros.supernet.supernet import Supernet, load_supernet

__all__ = ["Supernet", "load_supernet"]
