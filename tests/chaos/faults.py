"""Faults at random, from a seed: which, on whom, and for how long. The processes' own timing is nobody's to seed.

    one thread: every moment a fault; those that last are ended when their time comes, all of them at `stop`

Each is written down when it begins, the lasting ones with their intended end, and once more if they are ended early: the
checker reads them. A frozen process is never killed while frozen by its own fault's end, only thawed.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psutil

from tests.chaos.history import Book, Fault, now
from tests.chaos.stage import Stage

T = TypeVar("T")


WORKERS_SHARE = 0.6
# A fault may find no victim just then; so often another is tried.
MAX_TRIES = 5


@dataclass(frozen=True)
class Mix:
    """How often, and what."""

    mean_gap_seconds: float = 0.6
    kinds: tuple[tuple[str, float], ...] = (
        ("kill master", 1.3), ("kill supervisor", 2.0), ("kill child", 3.0), ("kill nursery", 1.0), ("kill client", 0.7),
        ("kill keeper", 1.0),
        ("freeze master", 1.0), ("freeze supervisor", 1.0), ("freeze nursery", 0.5), ("freeze child", 0.5),
        ("freeze client", 0.3), ("freeze host", 0.7), ("cut line", 6.0),
    )  # fmt: skip


KILLS_ONLY = Mix(1.0, (("kill master", 1.0), ("kill supervisor", 1.0), ("kill child", 1.0)))

# A master that lives through a whole run shows whether its memory, descriptors and threads grow.
SPARED_MASTER = Mix(kinds=tuple(kind for kind in Mix.kinds if kind[0] != "kill master"))


class Faults:
    """The thread that breaks things. `spared` workers lose no supervisor: their memory is watched."""

    def __init__(self, stage: Stage, seed: int, mix: Mix, *, spared: frozenset[str] = frozenset()) -> None:
        self.counts: Counter[str] = Counter()
        self.log: list[Fault] = []
        self._stage = stage
        self._mix = mix
        self._spared = spared
        self._random = random.Random(seed)
        self._book = Book(stage.folder / "faults")
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._cut: set[str] = set()
        self._frozen: set[int] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-faults", daemon=True)
        self.trouble: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End every fault; returns when all is whole."""
        self._is_over.set()
        self._thread.join()
        while self._ends:
            heapq.heappop(self._ends)[2]()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            next_at = now()
            while not self._is_over.wait(max(0.0, min([next_at, *(at for at, *_ in self._ends[:1])]) - now())):
                while self._ends and self._ends[0][0] <= now():
                    heapq.heappop(self._ends)[2]()
                if now() >= next_at:
                    before = len(self.log)
                    for _ in range(MAX_TRIES):
                        self.break_something()
                        if len(self.log) > before:
                            break
                    next_at = now() + self._random.uniform(0.2, 1.8) * self._mix.mean_gap_seconds
        except BaseException as error:  # told at the end of the run; a run without faults proves nothing
            self.trouble = error

    def break_something(self) -> None:
        """One fault, if there is a victim of its kind."""
        kinds, weights = zip(*self._mix.kinds, strict=True)
        kind, what = self._random.choices(kinds, weights)[0].split()
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if kind == "cut":
                self._cut_line()
            elif what == "host":
                self._freeze_host()
            elif (victim := self._victim(what, kind)) is not None:
                (self._kill if kind == "kill" else self._freeze)(what, *victim)

    def _victim(self, what: str, kind: str) -> tuple[str, int] | None:
        """Its host and pid."""
        if what in {"master", "client", "supervisor", "keeper"}:
            actors = self._stage.of_kind(what)
            if kind == "kill":
                actors = [actor for actor in actors if actor.name not in self._spared]
            actor = self._choose(actors)
            return (actor.name, actor.pid) if actor is not None and actor.pid else None
        worker = self._choose(self._stage.of_kind("supervisor"))
        if worker is None:
            return None
        if what == "nursery":
            nursery = self._stage.nursery(worker)
            return (worker.name, nursery.pid) if nursery is not None else None
        child = self._choose(self._stage.children(worker))
        return (worker.name, child.pid) if child is not None else None

    def _choose(self, among: Sequence[T]) -> T | None:
        return self._random.choice(among) if among else None

    def _kill(self, what: str, host: str, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._note(Fault(kind="kill", what=what, host=host, at=now()))

    def _freeze(self, what: str, host: str, *pids: int) -> None:
        seconds = self._duration()
        stopped = [pid for pid in pids if pid not in self._frozen]
        if not stopped:
            return
        at = now()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
            self._frozen.add(pid)
        self._note(Fault(kind="freeze", what=what, host=host, at=at, until=at + seconds, detail=f"{stopped}"))
        self._end_after(seconds, lambda: self._thaw(stopped))

    def _freeze_host(self) -> None:
        """All of a worker's processes at once, as when a virtual machine is suspended."""
        worker = self._choose(self._stage.of_kind("supervisor"))
        if worker is not None and worker.pid:
            below = [process.pid for process in psutil.Process(worker.pid).children(recursive=True)]
            self._freeze("host", worker.name, worker.pid, *below)

    def _thaw(self, pids: list[int]) -> None:
        for pid in pids:
            self._frozen.discard(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _cut_line(self) -> None:
        lines = sorted(self._stage.lines)
        # A worker that is cut off holds leases; a client only waits.
        workers = [name for name in lines if self._stage.actors[name].kind == "supervisor"] or lines
        name = self._random.choice(workers if self._random.random() < WORKERS_SHARE else lines)
        if name in self._cut:
            return
        seconds = self._duration()
        kind, heal = self._stage.cut(name, self._random)
        at = now()
        self._note(Fault(kind="cut", what="line", host=name, at=at, until=at + seconds, detail=kind))
        self._cut.add(name)

        def end() -> None:
            self._cut.discard(name)
            heal()

        self._end_after(seconds, end)

    def _duration(self) -> float:
        """Shorter than the heartbeat's timeout, or longer, as often."""
        timeout = self._stage.setting.heartbeat_timeout_seconds
        if self._random.random() < 0.5:
            return self._random.uniform(0.05, 0.7) * timeout
        return self._random.uniform(1.2, 2.5) * timeout

    def _end_after(self, seconds: float, end: Callable[[], None]) -> None:
        heapq.heappush(self._ends, (now() + seconds, next(self._numbers), end))

    def _note(self, fault: Fault) -> None:
        self.log.append(fault)
        self._book.write(fault)
        self.counts[f"{fault.kind} {fault.what}"] += 1
        if fault.detail and fault.kind == "cut":
            self.counts[f"cut: {fault.detail}"] += 1
