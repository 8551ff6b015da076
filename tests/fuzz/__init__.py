"""Fuzzing of everything that reads bytes which somebody else chose. See `targets.py` for what must hold."""
