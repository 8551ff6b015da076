"""The supervisor of a host, its nursery, and the children that run the jobs."""
