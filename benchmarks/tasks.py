"""The tasks that are run. Importable, because the standard library's pools can send no other kind."""

from __future__ import annotations


def echo(number: int) -> int:
    """Do nothing, but return what came in: so a side that loses or mixes up jobs is found out."""
    return number


def moment(asked: float) -> float:
    """A job that is the moment at which it was submitted; simulated workers look at that, and run nothing."""
    return asked
