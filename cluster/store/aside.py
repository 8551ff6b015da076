"""What is set aside: records that are not what this cluster wrote, named once, and their jobs as listings show them.

Nothing of such a row is believed but the name of its job, so that people can ask for it: it is neither run nor answered.
The row itself stays in the file as it is, for whoever looks into what happened, until the store is restored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from cluster.core.effects import StoredJob
from cluster.core.records import Certificate, Ending, JobSpec, Outcome
from cluster.core.states import JobState
from cluster.errors import StoreTampered
from cluster.store.rows import BadSealError

LOG = logging.getLogger("cluster.store")

MAX_NAMED = 1000
_WHAT_TO_DO = "it is neither run nor answered; `cluster store check` tells of all, a restored backup has it as it was"


class Aside:
    """Of one opening of one store. May be used from any thread: a race costs a line said twice."""

    def __init__(self, store: str, hear: Callable[[str], None]) -> None:
        """Of a store; `hear` is called with each sentence."""
        self._store = store
        self._hear = hear
        self.sentences: list[str] = []
        self._jobs: dict[int, StoredJob] = {}

    def clear(self) -> None:
        """Begin anew."""
        self.sentences.clear()
        self._jobs.clear()

    def tell(self, error: BadSealError) -> None:
        """Name a record, here and in the log, once."""
        sentence = f"{error}; it is left out of everything"
        if len(self.sentences) < MAX_NAMED and sentence not in self.sentences:
            self.sentences.append(sentence)
            LOG.error("tampered: table=%s job=%s store=%s: %s", error.table, error.job or "-", self._store, sentence)
            self._hear(sentence)

    def refusal(self, error: BadSealError) -> StoreTampered:
        """What to raise at whoever asked for that record, which is named with it."""
        self.tell(error)
        return StoreTampered(self._store, f"{error}; it was not used")

    def put(self, row: Sequence[Any], error: BadSealError) -> StoredJob:
        """A job of which a record is tampered, as listings show it: its name, and why it is neither run nor answered."""
        seq, job = int(row[0]), str(row[1])
        certificate = Certificate(ending=Ending.TAMPERED, reason=f"{error} (table {error.table}); {_WHAT_TO_DO}")
        outcome = Outcome(job, 1, JobState.DEAD_LETTER, 0.0, certificate=certificate)
        aside = StoredJob(seq=seq, spec=JobSpec(job, b"", b""), submitted=0.0, outcome=outcome)
        if len(self._jobs) < MAX_NAMED:
            self._jobs[seq] = aside
        return aside

    def between(self, after: int, end: int) -> dict[int, StoredJob]:
        """Those that were come across, by number, `after` itself left out."""
        return {seq: job for seq, job in list(self._jobs.items()) if after < seq <= end}
