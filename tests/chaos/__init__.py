"""Chaos on real processes: faults at random, histories written down, and a checker that compares them. `make chaos`."""
