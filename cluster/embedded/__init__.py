"""Local mode: client, master and worker in one process, on the same desks as a launched cluster."""
