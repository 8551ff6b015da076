"""What grows with the size: of the queue, of the host, of the cluster. `python -m benchmarks.scaling`."""
