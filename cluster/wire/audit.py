"""What happened at the door that should not have: security events, counted, and told in the log without flooding it.

    any thread ── record(kind, origin, ...) ──► counts (every event) ──► a line of logger "cluster.audit" (some)

An attacker chooses how many events there are, from how many addresses, and much of their text. So:

- every event is counted, in total and by kind; the kinds are a closed list;
- of one kind, origin and certificate there is one line in `QUIET_SECONDS`, of one kind at most `MAX_LINES`, from however
  many origins; certificates count because nobody must hide another's event behind his own, and only proven ones do;
  what was left out is said by the next line, or by `flush` when nothing follows;
- of origins at most `MAX_ORIGINS` are remembered; what was left out of one that is forgotten is said as `elsewhere`;
- text that a peer may have chosen is cut, and what is not printable is escaped: one event is one line.

There is one `AUDIT` for a process, as there is one log. Its lock is held for the bookkeeping alone: the line is written
after it was let go. docs/reference/audit.md lists the kinds; a test compares.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from cluster.log_lines import in_one_line  # here: when descriptors run out, nothing more can be loaded

LOG = logging.getLogger("cluster.audit")

QUIET_SECONDS = 10.0
MAX_LINES = 20  # of one kind, in that time
MAX_ORIGINS = 1024
MAX_TEXT = 200


class Kind(StrEnum):
    """Every security event, by the name that stands in the log, in `stats()` and in `cluster status --json`."""

    # Whoever connected may not come in.
    HANDSHAKE_MALFORMED = "handshake_malformed"
    HANDSHAKE_VERSION = "handshake_version"
    HANDSHAKE_ROLE = "handshake_role"
    HANDSHAKE_WRONG_KEY = "handshake_wrong_key"
    HANDSHAKE_CERTIFICATE = "handshake_certificate"
    HANDSHAKE_EXPIRED = "handshake_expired"
    HANDSHAKE_REVOKED = "handshake_revoked"
    HANDSHAKE_NAME = "handshake_name"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    HANDSHAKE_REFUSED = "handshake_refused"
    STRANGER_DISPLACED = "stranger_displaced"
    CONNECTIONS_FULL = "connections_full"
    # Whoever is inside does what it may not.
    FRAME_TOO_LONG = "frame_too_long"
    FRAME_TOO_SLOW = "frame_too_slow"
    FRAME_MALFORMED = "frame_malformed"
    BYTES_FULL = "bytes_full"
    CALL_UNKNOWN = "call_unknown"
    CALL_MALFORMED = "call_malformed"
    CALL_NOT_FOR_ROLE = "call_not_for_role"
    CALL_FOR_ANOTHER = "call_for_another"
    # The master itself.
    RECORD_TAMPERED = "record_tampered"
    INSECURE_START = "insecure_start"
    SHORTAGE = "shortage"


_Key = tuple[Kind, str, str, str]  # kind, origin, role, name


class _Told(Struct):
    """One kind, origin and identity: when there was a line of it, and how many events since had none."""

    at: float
    unsaid: int = 0


class _Window(Struct):
    """One kind: the lines since `began`, and what was left out of origins that are forgotten."""

    began: float
    lines: int = 0
    elsewhere: int = 0


class Audit:
    """Counts security events, and tells of them. Every method may be called from any thread."""

    def __init__(self, mono: Callable[[], float] = time.monotonic) -> None:
        self._mono = mono
        self._lock = threading.Lock()  # guards all of these
        self._counts: Counter[Kind] = Counter()
        self._told: OrderedDict[_Key, _Told] = OrderedDict()  # the latest event last
        self._windows: dict[Kind, _Window] = {}

    def record(self, kind: Kind, *, origin: str, reason: str, role: str = "", name: str = "") -> None:
        """Note a security event. Never raises, never blocks on anything but the log.

        Args:
            kind: what happened.
            origin: the peer's address, "unix", or what part of the master it is about ("store").
            reason: one sentence, for operators; may hold text of a peer's.
            role: as the peer proved it; empty before it has.
            name: of the peer's certificate, likewise.
        """
        with self._lock:
            self._counts[kind] += 1
            left_out = self._may_say((kind, origin, role, name))
        if left_out is not None:
            unsaid, elsewhere = left_out
            LOG.log(
                logging.ERROR if kind is Kind.SHORTAGE else logging.WARNING,
                "%s: origin=%s role=%s name=%s suppressed=%d elsewhere=%d reason=%s",
                kind.value,
                inert(origin),
                role,
                inert(name),
                unsaid,
                elsewhere,
                inert(reason),
            )

    def counts(self) -> dict[str, int]:
        """How many events there were since the process began, by kind; kinds that never happened are left out."""
        with self._lock:
            return {kind.value: self._counts[kind] for kind in Kind if self._counts[kind]}

    def flush(self) -> None:
        """Say how many events had no line, where no later event has said so."""
        with self._lock:
            left: Counter[Kind] = Counter({kind: window.elsewhere for kind, window in self._windows.items()})
            for (kind, *_), told in self._told.items():
                left[kind] += told.unsaid
                told.unsaid = 0
            for window in self._windows.values():
                window.elsewhere = 0
        for kind, count in left.items():
            if count:
                LOG.warning("%s: suppressed=%d reason=%s", kind.value, count, "more of the same, told in one line")

    def _may_say(self, key: _Key) -> tuple[int, int] | None:
        """Whether this event gets a line: then how many of this key, and of others, had none; else None."""
        now, kind = self._mono(), key[0]
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now)
        elif now - window.began >= QUIET_SECONDS:
            window.began, window.lines = now, 0
        told = self._told.get(key)
        is_quiet = told is None or now - told.at >= QUIET_SECONDS
        if told is None:
            told = self._told[key] = _Told(now - QUIET_SECONDS)
            if len(self._told) > MAX_ORIGINS:
                (forgotten, *_), last = self._told.popitem(last=False)
                self._windows[forgotten].elsewhere += last.unsaid
        self._told.move_to_end(key)
        if not is_quiet or window.lines >= MAX_LINES:
            told.unsaid += 1
            return None
        window.lines += 1
        left_out = told.unsaid, window.elsewhere
        told.at, told.unsaid, window.elsewhere = now, 0, 0
        return left_out


def inert(text: str) -> str:
    """A peer's text as it may stand in a log: cut, and in one line."""
    return in_one_line(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}[...]")


AUDIT = Audit()
