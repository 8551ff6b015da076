"""How a child turns an exception into data: a certificate, and the exception's pickle where one survives the journey.

Whatever a job raises is only described here, never raised again, and describing it must not fail: `__str__`, `__reduce__`
and `__setstate__` are user code too.
"""

from __future__ import annotations

import os
import pickle
import traceback
from types import TracebackType

import cloudpickle

from cluster.core.records import Certificate, Ending

MAX_MESSAGE_CHARACTERS = 8192
MAX_REASON_CHARACTERS = 500
MAX_TRACEBACK_CHARACTERS = 65536
# In a chunk where every item fails, thousands of certificates travel in one report.
MAX_ITEM_TRACEBACK_CHARACTERS = 4096
# An exception that carries more than this arrives as its description only.
MAX_EXCEPTION_BYTES = 16 << 20

NO_ITEM = -1  # as `Certificate.item` has it

_OUR_FRAMES = os.path.dirname(__file__)  # noqa: PTH120 - compared with code objects' file names


def describe(error: BaseException, ending: Ending, what: str, item: int = NO_ITEM) -> Certificate:
    """A certificate with what the exception says of itself; the child adds the circumstances.

    Args:
        error: what was raised.
        ending: RAISED, or UNPICKLABLE.
        what: the reason's first words: "raised", or "its result can't be pickled:".
        item: of a chunk, the item's index in it.
    """
    message = _message_of(error)
    first_line = message.partition("\n")[0]
    name = type(error).__qualname__
    reason = f"{what} {name}: {first_line}" if first_line else f"{what} {name}"
    max_traceback = MAX_TRACEBACK_CHARACTERS if item == NO_ITEM else MAX_ITEM_TRACEBACK_CHARACTERS
    return Certificate(
        ending=ending,
        reason=_storable(reason[:MAX_REASON_CHARACTERS]),
        error_types=tuple(
            _storable(f"{t.__module__}.{t.__qualname__}") for t in type(error).__mro__ if t is not object
        ),
        message=_storable(message[:MAX_MESSAGE_CHARACTERS]),
        traceback=_storable(_traceback_of(error)[-max_traceback:]),
        item=item,
    )


def _storable(text: str) -> str:
    """Records are UTF-8; a text of the user's may hold half of a surrogate pair (a file name of bytes, say)."""
    return text.encode(errors="backslashreplace").decode()


def pickle_exception(error: BaseException) -> bytes:
    """The exception's pickle, if it can be rebuilt from it; else nothing."""
    try:
        data: bytes = cloudpickle.dumps(error, protocol=5)
        rebuilt = pickle.loads(data) if len(data) <= MAX_EXCEPTION_BYTES else None
    except BaseException:
        return b""
    return data if isinstance(rebuilt, BaseException) else b""


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as worse:
        return f"<its text can't be made: {type(worse).__qualname__}>"


def _traceback_of(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, _without_our_frames(error.__traceback__))
        return "".join(lines).rstrip("\n")
    except BaseException as worse:
        return f"{type(error).__qualname__} <its traceback can't be made: {type(worse).__qualname__}>"


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == _OUR_FRAMES:  # noqa: PTH120
        trace = trace.tb_next
    return trace
