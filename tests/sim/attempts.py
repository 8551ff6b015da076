"""How an attempt goes: decided by the dice and by what the job is called, never by its run of luck so far.

The first letter of a job's arguments is its nature: `g` good, `r` raises now and then, `c` crashes now and then,
`b` bad (always raises), `k` a killer (always crashes), `m` mixed.
"""

from __future__ import annotations

import random

from cluster.core.records import Certificate, Ending, Lease, Report, Segment

ODDS: dict[str, tuple[float, float]] = {  # of raising (or timing out), of crashing
    "g": (0.0, 0.0),
    "r": (0.5, 0.0),
    "c": (0.0, 0.5),
    "b": (1.0, 0.0),
    "k": (0.0, 1.0),
    "m": (0.25, 0.25),
}
ERROR = "builtins.ValueError"
# Some outlast any heartbeat's timeout.
SECONDS = (0.02, 0.02, 0.05, 0.05, 0.2, 0.2, 0.2, 0.2, 1.0, 1.0, 4.0, 4.0, 20.0)
LONG_SECONDS = (0.05, 0.2, 1.0, 4.0, 20.0, 20.0)


def play(lease: Lease, dice: random.Random, lengths: tuple[float, ...]) -> tuple[float, Report]:
    """How long the attempt takes, and what its worker reports."""
    seconds = dice.choice(lengths)
    nature = chr(lease.args[0])
    if lease.ranges:
        return seconds, _chunk(lease, nature, dice)
    ending = _roll(nature, dice)
    if ending is Ending.SUCCEEDED:
        return seconds, Report(lease.fence, ending, f"{lease.job}/{lease.run}".encode())
    return seconds, Report(lease.fence, ending, certificate=certificate(ending))


def killed(lease: Lease) -> Report:
    """What a worker says of an attempt that it killed itself."""
    return Report(lease.fence, Ending.CRASHED, certificate=certificate(Ending.CRASHED))


def _roll(nature: str, dice: random.Random) -> Ending:
    raising, crashing = ODDS[nature]
    luck = dice.random()
    if luck < raising:
        return dice.choice((Ending.RAISED, Ending.RAISED, Ending.TIMED_OUT, Ending.UNPICKLABLE))
    if luck < raising + crashing:
        return dice.choice((Ending.CRASHED, Ending.OUT_OF_MEMORY))
    return Ending.SUCCEEDED


def _chunk(lease: Lease, nature: str, dice: random.Random) -> Report:
    """Items in order; careless attempts die as a whole, careful ones tell which item it was."""
    segments: list[Segment] = []
    for first, end in lease.ranges:
        for item in range(first, end):
            # One item in three shares its chunk's nature, so that chunks have good and bad ones.
            ending = _roll(nature, dice) if item % 3 == 0 else Ending.SUCCEEDED
            if ending in (Ending.CRASHED, Ending.OUT_OF_MEMORY):
                if not lease.careful:
                    return Report(lease.fence, ending, certificate=certificate(ending))
                segments.append(Segment(item, 1, b"", certificate(ending, item)))
                return Report(lease.fence, ending, certificate=certificate(ending, item), segments=tuple(segments))
            if ending is Ending.SUCCEEDED:
                segments.append(Segment(item, 1, f"{lease.job}/{lease.run}/{item}".encode()))
            else:
                segments.append(Segment(item, 1, b"", certificate(ending, item)))
    return Report(lease.fence, Ending.SUCCEEDED, segments=tuple(segments))


def certificate(ending: Ending, item: int = -1) -> Certificate:
    types = (ERROR,) if ending is Ending.RAISED else ()
    return Certificate(ending=ending, reason=f"the dice said {ending.name}", error_types=types, item=item)
