"""The real device: clocks and sensors of a Linux kernel, found and used through its files."""
