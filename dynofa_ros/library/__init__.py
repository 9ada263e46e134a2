"""Libraries: sub-networks of a supernet with the accuracy and latency that each has on a processor."""
