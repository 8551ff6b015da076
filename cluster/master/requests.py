"""Requests that must not be carried out twice, though their caller may have to ask twice for the answer.

A caller that lost its connection, or its master, can't know whether its request was carried out, so it repeats it under
the same id. The answer is a record of the commit log, in the same group as the effect: after a restart either both are
there or neither. Until that group is durable the answer is remembered here.
"""

from __future__ import annotations

from cluster.core.effects import Answered
from cluster.store.port import Store

# A proxy gives up after its patience, which is seconds; a day covers a program that is stopped and continued.
KEEP_SECONDS = 86400.0
# More requests than can be decided and not yet durable.
MAX_REMEMBERED = 10_000


class Requests:
    """Answers by request id. Its caller sees to it that equal requests come one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: dict[str, bytes] = {}

    def answer(self, request: str) -> bytes | None:
        """What this request was answered; None if it was not carried out. May read the disk."""
        if not request:
            return None
        recent = self._recent.get(request)
        return self._store.answer(request) if recent is None else recent

    def remember(self, request: str, answer: bytes, wall: float) -> list[Answered]:
        """What goes into the log together with the effect; nothing for a caller in this process, which never repeats."""
        if not request:
            return []
        self._recent[request] = answer
        if len(self._recent) > MAX_REMEMBERED:
            del self._recent[next(iter(self._recent))]
        return [Answered(request, answer, wall + KEEP_SECONDS)]
