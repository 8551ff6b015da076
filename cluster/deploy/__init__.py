"""Clusters from a YAML file: its schema, the keeper that holds the processes up, and up, down, status, logs, launch."""
