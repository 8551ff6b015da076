"""Which room of the kit a stack is in: that of its innermost frame that belongs to the kit at all.

So what the standard library, the codec or SQLite do is on the account of the room that asked for it.
"""

from __future__ import annotations

import os
from types import FrameType

# By the beginning of a module's path below the package; the first that fits counts.
ROOMS = (
    ("master/committer.py", "committer"),
    ("master/durable.py", "committer"),
    ("store/", "committer"),  # only the committer writes, and a benchmark's jobs are not read back
    ("master/", "desks"),
    ("core/", "board"),
    ("wire/", "wire"),
    ("worker/", "supervisor"),
    ("client/", "client"),
    ("embedded/", "client"),
)
CALLER = "caller"  # the program that submits, and whatever else is not ours
OTHER = "other"  # the kit, but none of the rooms that a job goes through
CHILD = "child"
# In the order of a job's way.
ORDER = (CALLER, "client", "wire", "desks", "board", "committer", "supervisor", CHILD, OTHER)


def room_of_path(path: str, package: str) -> str | None:
    """The room of a source file; None if it is not in the package's folder."""
    if not path.startswith(package + os.sep):
        return None
    below = path[len(package) + 1 :].replace(os.sep, "/")
    return next((room for start, room in ROOMS if below.startswith(start)), OTHER)


def room_of_frame(frame: FrameType | None, package: str) -> str:
    """The room of a stack, given its innermost frame."""
    while frame is not None:
        room = room_of_path(frame.f_code.co_filename, package)
        if room is not None:
            return room
        frame = frame.f_back
    return CALLER
