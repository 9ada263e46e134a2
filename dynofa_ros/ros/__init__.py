"""What every node of the package shares: parameters, QoS, names, lifecycle, diagnostics, images."""
