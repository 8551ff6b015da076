"""The `cluster` command: the only room that prints."""
