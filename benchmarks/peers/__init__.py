"""Peers that are not in the base run: each in an environment of its own, made, started and stopped by us."""
