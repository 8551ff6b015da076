"""What the user holds: the cluster handle, futures, batches, and how functions and arguments are pickled."""
