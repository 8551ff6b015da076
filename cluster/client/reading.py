"""Following what a job prints, from its first attempt to its end."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cluster.core.printed import Place
from cluster.core.records import JobId

if TYPE_CHECKING:
    from cluster.client.session import Session

# How long one question waits for an answer. Python loses a Ctrl-C that comes in the instant before a thread goes to
# sleep; it is noticed when this is over.
ASK_SECONDS = 1.0


class Following(Iterator[str]):
    """The output of one job, piece by piece, as it comes; ends with the job. Any number of threads may share one.

    It keeps no more than the piece in hand, and a place by which every master knows where it has come to.
    """

    def __init__(self, session: Session, job: JobId) -> None:
        self._session = session
        self._job = job
        self._lock = threading.Lock()  # held while waiting too: the next one waits for what comes after
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._place = Place()
        self._is_over = False

    def __next__(self) -> str:
        with self._lock:
            while not self._is_over:
                piece = self._session.reach().read_output(self._job, self._place, ASK_SECONDS)
                self._place, self._is_over = piece.place, piece.is_over
                text = self._decoder.decode(piece.text, final=piece.is_over)
                if text:
                    return text
        raise StopIteration
