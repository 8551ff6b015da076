"""What a field of a record may hold: bounds that a decoder checks, so that nothing else reaches a board, store or desk.

A peer chooses every byte of what it sends, and whoever can write to the store of what is read there. The types of the
records say what each field may mean, these aliases how much: a decoder (`msgspec`) refuses the record otherwise, and names
the field. Not a number compares false with every bound, so no bounded float is one: as a retention no table takes it, and
as a deadline it is neither past nor to come. What is made in this process is not checked again: the client's options have
the same bounds.

Bounds are for the decoder, not for taste: far beyond what anybody means, and below what overflows a timer, a date, a
64-bit column, or somebody's patience.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta

MAX_DURATION_SECONDS = 100 * 365.25 * 86400.0  # a century: more is a slip, and would overflow dates
MAX_COUNT = 1_000_000_000
MAX_PRIORITY = 2**31 - 1
FACTORS = (1.0, 1000.0)  # of a backoff
MAX_TEXT_LENGTH = 1000  # of a name, a tag, an id
MAX_SIZE = 10**18  # bytes
MAX_LIMITS = 10  # of one job's memory, one after the other
MAX_ITEMS = 10_000  # tags, labels, resources, jobs to wait for
MAX_WALL = 253_402_300_800.0  # the year 10000, where dates end
# Of what a call brings at once. A client sends 2,000 jobs, watches 1,000, a worker reports 2,000; orders go in one piece.
MAX_BATCH = 10_000
MAX_ORDERS = 1_000_000
MAX_RANGE = 1 << 15  # items of a chunk whose arguments are not there one by one, but as a range
# Explanations are cut by the worker, well below this.
MAX_LONG_TEXT = 1 << 20
# A column of SQLite's, and what JSON's readers take for an integer at least.
_MAX_WHOLE = 2**63 - 1
_MAX_FLOAT = 1.7976931348623157e308  # beyond is infinity

Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=MAX_DURATION_SECONDS)]
Wall: TypeAlias = Annotated[float, Meta(ge=-MAX_WALL, le=MAX_WALL)]
# Measured by somebody: only that it is a number is sure.
Figure: TypeAlias = Annotated[float, Meta(ge=-_MAX_FLOAT, le=_MAX_FLOAT)]
Factor: TypeAlias = Annotated[float, Meta(ge=FACTORS[0], le=FACTORS[1])]
Fraction: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Whole: TypeAlias = Annotated[int, Meta(ge=-_MAX_WHOLE, le=_MAX_WHOLE)]
Natural: TypeAlias = Annotated[int, Meta(ge=0, le=_MAX_WHOLE)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Amount: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Priority: TypeAlias = Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
Size: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_SIZE)]
Text: TypeAlias = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_LENGTH)]
LongText: TypeAlias = Annotated[str, Meta(max_length=MAX_LONG_TEXT)]
Few = Meta(max_length=MAX_ITEMS)
Batch = Meta(max_length=MAX_BATCH)
Orders = Meta(max_length=MAX_ORDERS)
