"""`echo=True`: what a job prints appears on this process's standard output, as it comes.

    deliverer (a thread of the master, or the listener) ── printed, ended ──► due ──► echo thread ──► sys.stdout
                                                                               └─ read_output, from its place ─► desk

The master is authoritative: a word that a job has printed only makes the thread read, from where it had come to. So a
word that is lost or comes twice does no harm, and nor does a master's restart. At a job's end all that is left is read.

Whole lines are written in one go, so that those of several jobs, and of the program itself, keep apart. The beginning of
a line waits for its end: the next words, the job's end, or `MAX_LINE_BYTES`. Nobody waits for the thread but the handle's
`close`, and that not for long: standard output may be a pipe that nobody reads.

`_changed` guards everything that is not the thread's own; it is never held while the desk is asked or a line is written.
"""

from __future__ import annotations

import codecs
import logging
import sys
import threading
from collections.abc import Callable, Iterable

from cluster.core.printed import Piece, Place
from cluster.core.records import JobId
from cluster.errors import ClusterError, UnknownJob

MAX_LINE_BYTES = 64 * 1024
MAX_CLOSE_SECONDS = 5.0

_LOG = logging.getLogger("cluster")


class _Reader:
    """One job, and how far it has been written."""

    def __init__(self) -> None:
        self.place = Place()
        self.is_ended = False  # guarded by `Echo._changed`
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.begun = ""  # of a line


class Echo:
    """The jobs of a session that are to be echoed. Thread-safe; its thread starts with the first of them."""

    def __init__(self, read: Callable[[JobId, Place, float], Piece]) -> None:
        self._read = read
        self._changed = threading.Condition()
        self._readers: dict[JobId, _Reader] = {}
        self._due: dict[JobId, None] = {}  # in order; each once
        self._is_reading = False
        self._is_closed = False
        self._has_failed = False
        threading.Thread(target=self._run, name="cluster-echo", daemon=True).start()

    def add(self, job: JobId) -> None:
        """Echo this job, which was just submitted."""
        with self._changed:
            self._readers.setdefault(job, _Reader())

    def printed(self, job: JobId) -> None:
        """There is something to read."""
        with self._changed:
            if job in self._readers:
                self._due[job] = None
                self._changed.notify_all()

    def ended(self, jobs: Iterable[JobId]) -> None:
        """These have ended, or will never begin."""
        with self._changed:
            for job in jobs:
                reader = self._readers.get(job)
                if reader is not None:
                    reader.is_ended = True
                    self._due[job] = None
            self._changed.notify_all()

    def close(self) -> None:
        """Return once all that is known of is written, or after a while; write nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._due and not self._is_reading, MAX_CLOSE_SECONDS)
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_reading = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._due or self._is_closed)
                if self._is_closed:
                    return
                job = next(iter(self._due))
                del self._due[job]
                reader = self._readers[job]
                is_ended = reader.is_ended
                self._is_reading = True
            is_more = self._copy(job, reader, is_ended=is_ended)
            with self._changed:
                if is_more:
                    self._due[job] = None  # behind the others
                elif is_ended:
                    del self._readers[job]
                    self._due.pop(job, None)  # an outcome may be told twice

    def _copy(self, job: JobId, reader: _Reader, *, is_ended: bool) -> bool:
        """Write what is new; True if there may be more."""
        try:
            piece = self._read(job, reader.place, 0.0)
        except UnknownJob:  # refused
            piece = Piece(b"", reader.place, is_over=True)
        except ClusterError as error:
            _LOG.warning("what job %s prints can't be echoed: %s", job, error)
            piece = Piece(b"", reader.place, is_over=True)
        reader.place = piece.place
        is_last = is_ended and (piece.is_over or not piece.text)
        text = reader.begun + reader.decoder.decode(piece.text, final=is_last)
        lines, newline, begun = text.rpartition("\n")
        if begun and (is_last or len(begun) > MAX_LINE_BYTES):
            lines, newline, begun = text, "\n", ""
        reader.begun = begun
        self._write(lines + newline)
        return bool(piece.text) and not is_last

    def _write(self, text: str) -> None:
        stream = sys.stdout  # looked up each time: programs redirect it
        if not text or stream is None:
            return
        try:
            encoding = getattr(stream, "encoding", None) or "utf-8"
            _ = stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except Exception as error:  # noqa: BLE001 - closed, a broken pipe; or an object of the user's that raises anything
            if not self._has_failed:
                self._has_failed = True
                _LOG.warning("what jobs print can't be written to standard output: %s", error)
