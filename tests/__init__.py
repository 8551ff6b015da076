"""The tests. A package, so that no installed distribution's stray `tests` can stand in its place."""
