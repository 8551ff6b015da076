"""The simulator: a whole cluster in one thread, driven by one number."""
