"""A client of a chaos run: submits jobs of several sorts, and writes down what it asked for and what it heard.

    python -m tests.chaos.client ADDRESS KEY FILE NAME SEED SECONDS [TOKEN=JOB ...]

    main thread: invoke, submit, issue ──► queue ──► acknowledging thread      handle's callback thread: outcomes

Killed at any instant, it is started again under another name, and given some of its predecessor's jobs to hear of once
more. After SECONDS, or at SIGTERM, it submits nothing more, waits for all that is open, writes down what did not come,
and ends with 0.
"""

from __future__ import annotations

import hashlib
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cluster
from cluster.client.connect import connect
from tests.chaos import tasks
from tests.chaos.history import (
    Acknowledged,
    Book,
    CancelAnswered,
    Heard,
    Invoked,
    Issued,
    MapHeard,
    Refused,
    Unresolved,
    now,
)

# A killed client leaves as many to be done, and the queue must not grow for ever.
MAX_OPEN = 40
MEAN_GAP_SECONDS = 0.02
# After the faults have stopped; a liveness failure takes so long to be told.
DRAIN_SECONDS = 90.0
ACKNOWLEDGED_SECONDS = 120.0
KEY_SECONDS = 1.0  # all clients submit the same key within so long
MAP_ITEMS = 24


@dataclass(frozen=True)
class Plan:
    """One job to come: function, what follows token and data, and its options."""

    sort: str
    function: Callable[..., Any]
    more: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


def plan(chance: random.Random) -> Plan:
    """The next job, but for maps, keyed and dependent ones."""
    at_most_once = {"retries": 0, "crash_limit": 0}
    plans = [
        (10, Plan("short", tasks.nap)),
        (10, Plan("20 ms", tasks.nap, (0.02,))),
        # Before all others, so that the next attempt of a lost one begins at once, while the one before may still run
        # where it should not.
        (6, Plan("long", tasks.nap, (chance.choice([0.5, 2.0, 6.0]),), {"priority": 1})),
        (4, Plan("fails once", tasks.fail_before, (2,), {"retries": cluster.RetryPolicy(2, backoff=0.05)})),
        (2, Plan("fails always", tasks.fail_before, (99,), {"retries": cluster.RetryPolicy(2, backoff=0.05)})),
        (1, Plan("dies always", tasks.die, (), {"crash_limit": 1})),
        (1, Plan("times out", tasks.nap, (30.0,), {"timeout": 0.2, "retries": cluster.RetryPolicy(1, backoff=0.05)})),
        (6, Plan("at most once", tasks.nap, (chance.choice([0.0, 0.02, 0.5]),), at_most_once)),
        (3, Plan("delayed", tasks.nap, (), {"delay": chance.uniform(0.2, 2.0)})),
        (3, Plan("cancelled", tasks.nap, (chance.uniform(0.0, 2.0),))),
    ]
    return chance.choices([each for _, each in plans], [weight for weight, _ in plans])[0]


class Client:
    """The program. See the module's docstring for its threads."""

    def __init__(self, handle: cluster.Cluster, book: Book, name: str, seed: str) -> None:
        self._handle = handle
        self._book = book
        self._name = name
        self._chance = random.Random(seed)
        self._numbers = 0
        self._changed = threading.Condition()
        self._open: dict[int, tuple[str, Future[Any]]] = {}  # by identity: a key may be submitted twice
        self._last_done: tuple[str, cluster.Job[Any]] | None = None
        self._unacknowledged: queue.SimpleQueue[tuple[str, cluster.Job[Any]] | None] = queue.SimpleQueue()
        self._acknowledging = threading.Thread(target=self._acknowledge, daemon=True)
        self._acknowledging.start()

    def hear_again(self, known: dict[str, str]) -> None:
        """Attach to jobs of an earlier client."""
        for token, job_id in known.items():
            try:
                self._watch(token, self._handle.job(job_id))
            except cluster.ClusterError as error:
                # It may never have been admitted: its submission was not acknowledged.
                self._book.write(Refused(f"{token}?", now(), _text(error)))

    def work(self, until: float, is_told_to_end: threading.Event) -> None:
        """Submit until then."""
        while not is_told_to_end.wait(self._chance.expovariate(1 / MEAN_GAP_SECONDS)) and now() < until:
            with self._changed:
                if not self._changed.wait_for(lambda: len(self._open) < MAX_OPEN, 0.5):
                    continue
            self._submit_one()

    def finish(self) -> None:
        """Wait for what is open, and write down what does not come."""
        deadline = now() + DRAIN_SECONDS
        with self._changed:
            self._changed.wait_for(lambda: not self._open, DRAIN_SECONDS)
            left = list(self._open.values())
        for token, job in left:
            self._book.write(Unresolved(token, getattr(job, "id", ""), now()))
        self._unacknowledged.put(None)
        self._acknowledging.join(max(1.0, deadline - now()))

    # --- submitting -------------------------------------------------------------------------------------------------

    def _submit_one(self) -> None:
        dice = self._chance.random()
        if dice < 0.02:
            self._map()
        elif dice < 0.06:
            key = f"key-{int(now() / KEY_SECONDS)}"
            self._submit(key, Plan("keyed", tasks.nap, (0.02,), {"key": key}), b"")
        elif dice < 0.12 and self._last_done is not None:
            token, job = self._last_done
            self._submit(self._token(), Plan("dependent", tasks.follow, (job,)), self._data(), after=token)
        else:
            self._submit(self._token(), plan(self._chance), self._data())

    def _token(self) -> str:
        self._numbers += 1
        return f"{self._name}-{self._numbers}"

    def _data(self) -> bytes:
        # Mostly small, at times large: a frame that is cut in its middle must be of several packets.
        return self._chance.randbytes(self._chance.choice([8, 64, 1000, 1000, 200_000]))

    def _submit(self, token: str, what: Plan, data: bytes, *, after: str = "") -> None:
        retries = what.options.get("retries", 0)
        self._book.write(
            Invoked(
                token=token,
                at=now(),
                sort=what.sort,
                digest=hashlib.sha256(data).hexdigest(),
                retries=retries.max_retries if isinstance(retries, cluster.RetryPolicy) else retries,
                crash_limit=what.options.get("crash_limit", 5),
                delay=what.options.get("delay", 0.0),
                key=what.options.get("key", ""),
                after=after,
            )
        )
        try:
            job = self._handle.submit(what.function, (token, data, *what.more), name=token, **what.options)
        except cluster.ClusterError as error:
            self._book.write(Refused(token, now(), _text(error)))
            return
        self._book.write(Issued(token, job.id, now()))
        self._unacknowledged.put((token, job))
        self._watch(token, job)
        # What waits for a job that is still open is the more interesting case; not for one that is meant to fail.
        if what.sort in {"short", "20 ms", "long"}:
            self._last_done = token, job
        if what.sort == "cancelled":
            threading.Thread(target=self._cancel, args=(token, job, self._chance.uniform(0, 0.5)), daemon=True).start()

    def _map(self) -> None:
        token = self._token()
        size = self._chance.choice([1, 5, 12])
        self._book.write(Invoked(token=token, at=now(), sort="map", items=MAP_ITEMS))
        done: Future[Any] = Future()
        with self._changed:
            self._open[id(done)] = token, done
        threading.Thread(target=self._collect, args=(token, size, done), daemon=True).start()

    def _collect(self, token: str, size: int, done: Future[Any]) -> None:
        try:
            results = list(
                self._handle.map(
                    tasks.square, [token] * MAP_ITEMS, range(MAP_ITEMS), chunksize=size, name=token, errors="return"
                )
            )
        except cluster.ClusterError as error:
            self._book.write(Refused(token, now(), _text(error)))
        else:
            right = sum(1 for n, each in enumerate(results) if not isinstance(each, BaseException) and each[0] == n * n)
            errors = [each for each in results if isinstance(each, BaseException)]
            wrong = "" if right + len(errors) == MAP_ITEMS == len(results) else repr(results)[:500]
            self._book.write(MapHeard(token, now(), right, len(errors), wrong))
        self._close(done)

    def _cancel(self, token: str, job: cluster.Job[Any], after: float) -> None:
        threading.Event().wait(after)
        try:
            verdict = job.cancel()
        except cluster.ClusterError:
            return  # the master could not be reached: nothing was promised
        self._book.write(CancelAnswered(token, now(), verdict))

    # --- hearing ----------------------------------------------------------------------------------------------------

    def _acknowledge(self) -> None:
        while (waiting := self._unacknowledged.get()) is not None:
            token, job = waiting
            try:
                _ = job.accepted(ACKNOWLEDGED_SECONDS)
            except TimeoutError:
                self._book.write(Refused(token, now(), "never acknowledged"))
            except cluster.ClusterError as error:
                self._book.write(Refused(token, now(), _text(error)))
            else:
                self._book.write(Acknowledged(token, job.id, now()))

    def _watch(self, token: str, job: cluster.Job[Any]) -> None:
        with self._changed:
            self._open[id(job)] = token, job
        job.add_done_callback(lambda _: self._on_done(token, job))

    def _on_done(self, token: str, job: cluster.Job[Any]) -> None:
        nonce = owner = text = ""
        try:
            owner, nonce = job.result(0)
        except (cluster.JobCancelled, CancelledError):
            pass
        except (cluster.JobError, RuntimeError) as error:  # the task's own, or its end
            text = _text(error)
        except cluster.ClusterError as error:  # nothing about the job: the handle's trouble
            self._book.write(Refused(token, now(), _text(error)))
            self._close(job)
            return
        self._book.write(Heard(token, job.id, now(), job.state.name, nonce, owner, text))
        self._close(job)

    def _close(self, job: Future[Any]) -> None:
        with self._changed:
            self._open.pop(id(job), None)
            self._changed.notify_all()


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def main(arguments: list[str]) -> int:
    """Be a client until its time is over."""
    address, key, file, name, seed, seconds, *known = arguments
    until = time.monotonic() + float(seconds)
    is_told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_told_to_end.set())
    while True:
        try:
            handle = connect(address, key, patience_seconds=20.0)
            break
        except cluster.ClusterError:
            if is_told_to_end.wait(0.2):
                return 0
    client = Client(handle, Book(Path(file), sync=True), name, seed)
    client.hear_again(dict(each.split("=") for each in known))
    client.work(until, is_told_to_end)
    client.finish()
    handle.close(wait=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
