"""The process, or in embedded mode the part of one, that owns the queue."""
