"""One chaos run: a stage, two clients, faults for some time, then peace, and the checker's verdict.

    faults ──► stop ──► clients end ──► nothing live is left ──► every slot works ──► all stop ──► store read ──► checked

The phase after the faults is the liveness half of the proof: what has not ended within its deadline never will, and the
pool must be whole again by itself.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cluster
from cluster.client.connect import connect
from cluster.worker import scratch
from tests.acceptance.programs import wait_until
from tests.chaos.checker import Evidence, Violation, check, put_together
from tests.chaos.faults import Faults, Mix
from tests.chaos.final import PROBE, read_store
from tests.chaos.history import (
    Acknowledged,
    ClientRecord,
    Invoked,
    Issued,
    now,
    read_client,
    read_jobs,
)
from tests.chaos.samples import Growth, Sampler, growths
from tests.chaos.stage import Actor, Stage

PEACE_SECONDS = 100.0
LEFT_SECONDS = 10.0
HEAR_AGAIN = 20
PROBE_SECONDS = 30.0


@dataclass
class Report:
    """What a run came to."""

    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    sorts: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    lives: dict[str, int] = field(default_factory=dict)
    executions: int = 0
    reruns: int = 0
    fenced: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    growths: list[Growth] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        jobs = f"{sum(self.states.values())} jobs ({self.acknowledged} acknowledged; {_listed(self.sorts)})"
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s of faults: {sum(self.kills.values())} kills, {self.cuts} cuts",
            f"  faults:     {_listed(self.faults)}",
            f"  lives:      {_listed(self.lives)}",
            f"  jobs:       {jobs}",
            f"  outcomes:   {_listed(self.states)}",
            f"  executions: {self.executions}, of them {self.reruns} re-runs; {self.fenced} late reports refused",
            f"  excused:    {_listed(self.excused) or 'no overlap'}",
            *(f"  growth:     {growth}" for growth in self.growths),
            *(f"  VIOLATION   {violation}" for violation in self.violations[:50]),
            f"  {len(self.violations)} violations",
        ]
        return "\n".join(lines)

    @property
    def kills(self) -> dict[str, int]:
        """Kills by kind."""
        return {name: count for name, count in self.faults.items() if name.startswith("kill ")}

    @property
    def cuts(self) -> int:
        """How often a line was cut."""
        return self.faults["cut line"]


class FenceWatch:
    """The masters' count of refused reports, asked for now and then: it begins anew with each master."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._seen: dict[int, int] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-fence-watch", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The sum over all masters."""
        self._is_over.set()
        self._thread.join()
        return sum(self._seen.values())

    def _run(self) -> None:
        while not self._is_over.wait(0.3):
            pid = self._stage.actors["master"].pid
            try:
                with connect(self._stage.address, self._stage.client_key, patience_seconds=0.5) as handle:
                    while not self._is_over.wait(0.3):
                        fenced = handle.stats().fenced
                        pid = self._stage.actors["master"].pid
                        self._seen[pid] = max(fenced, self._seen.get(pid, 0))
            except (cluster.ClusterError, OSError):
                continue  # between two masters


def run(stage: Stage, seconds: float, mix: Mix, *, spared: frozenset[str] = frozenset()) -> Report:
    """Play it. The stage is up; afterwards its processes have stopped."""
    report = Report(stage.seed, seconds)
    books = _add_clients(stage, seconds)
    sampler = Sampler(lambda: {a.name: a.pid for a in stage.of_kind("master") + stage.of_kind("supervisor")})
    sampler.start()
    watch = FenceWatch(stage)
    faults = Faults(stage, stage.seed, mix, spared=spared)
    faults.start()
    threading.Event().wait(seconds)  # the faults' time
    faults.stop()
    report.violations += _come_to_rest(stage)
    report.fenced = watch.stop()
    sampler.stop()
    report.violations += _stop(stage)
    if faults.trouble is not None:
        raise faults.trouble

    clients = [record for book in books for record in read_client(book)]
    hosts = {name: read_jobs(path) for name in stage.actors if (path := stage.records(name)).exists()}
    evidence = Evidence(clients, put_together(dict(hosts)), faults.log, read_store(stage.store))
    report.violations += check(evidence)
    report.violations += _look_at_logs(list(stage.actors.values()))
    _count(report, evidence, faults)
    report.growths = growths(sampler.samples)
    report.violations += [Violation("growth", each.name, str(each)) for each in report.growths if each.is_clear]
    return report


def _add_clients(stage: Stage, seconds: float) -> list[Path]:
    """Start the clients; their books, which grow in number with their lives."""
    books: list[Path] = []
    until = now() + seconds

    def command(name: str, number: int) -> Sequence[str]:
        earlier = [book for book in books if book.name.startswith(f"{name}.")]
        known = _known(earlier[-1]) if earlier else []
        book = stage.folder / f"{name}.{len(earlier)}.history"
        books.append(book)
        book.touch()
        return [
            *stage.inside(name), sys.executable, "-m", "tests.chaos.client", stage.lines[name].address,
            str(stage.client_key), str(book), f"c{number}.{len(earlier)}", f"{stage.seed}/{number}/{len(earlier)}",
            str(max(0.0, until - now())), *known,
        ]  # fmt: skip

    for number in range(stage.setting.clients):
        name = f"client-{number}"
        stage.add_actor(name, "client", lambda name=name, number=number: command(name, number)).start()  # type: ignore[misc]
    return books


def _known(book: Path) -> list[str]:
    """The last jobs that a killed client had submitted, for the next one to hear of."""
    records: list[ClientRecord] = read_client(book)
    sorts = {record.token: record.sort for record in records if isinstance(record, Invoked)}
    issued = [record for record in records if isinstance(record, Issued) and sorts.get(record.token) != "keyed"]
    return [f"{record.token}={record.job}" for record in issued[-HEAR_AGAIN:]]


def _come_to_rest(stage: Stage) -> list[Violation]:
    """Clients end, nothing live is left, every slot takes a job."""
    clients = [actor for actor in stage.actors.values() if actor.kind == "client"]
    try:
        wait_until(lambda: all(actor.is_over for actor in clients), PEACE_SECONDS)
    except AssertionError:
        names = ", ".join(actor.name for actor in clients if not actor.is_over)
        return [Violation("liveness", names, f"it did not end within {PEACE_SECONDS:g} s of peace")]
    try:
        with connect(stage.address, stage.client_key, patience_seconds=20.0) as handle:
            wait_until(lambda: not handle.stats().states, PEACE_SECONDS)
            wait_until(lambda: _ready(handle) >= stage.setting.workers, PROBE_SECONDS)
            folder = stage.folder / "probes"
            folder.mkdir()
            count = stage.setting.workers * stage.setting.slots
            # Each waits for all the others: so many must run at the same time.
            probes = [handle.submit(meet, (str(folder), n, count), name=PROBE, timeout=60) for n in range(count)]
            assert len({probe.result(PROBE_SECONDS) for probe in probes}) == count
    except (AssertionError, cluster.ClusterError, TimeoutError) as error:
        return [Violation("liveness", "pool", f"it is not whole again: {type(error).__name__}: {error}")]
    return []


def _ready(handle: cluster.Cluster) -> int:
    return sum(worker.state == "ready" for worker in handle.workers())


def meet(folder: str, number: int, count: int) -> int:
    """Hold a slot until all slots are held."""
    (Path(folder) / str(number)).touch()
    wait_until(lambda: len(list(Path(folder).iterdir())) == count, PROBE_SECONDS)
    return number


def _stop(stage: Stage) -> list[Violation]:
    statuses = stage.stop()
    found = [
        Violation("stop", name, f"it was told to stop and ended with status {status}")
        for name, status in statuses.items()
        if status
    ]
    try:
        wait_until(lambda: not stage.left(), LEFT_SECONDS)
    except AssertionError:
        for process in stage.left():
            found.append(Violation("leftover", str(process.pid), " ".join(process.cmdline())))
            process.kill()
    return found + _look_at_scratch(stage)


def _look_at_scratch(stage: Stage) -> list[Violation]:
    """What a killed worker leaves the next of its name removes, at the latest when it is old."""
    parent = stage.folder / "scratch"
    if not parent.exists():  # of a kept cluster it went with all else that `cluster down` removes
        return []
    old = time.time() - 2 * scratch.UNLOCKED_SECONDS
    for folder in parent.iterdir():
        os.utime(folder, (old, old))
    for name in stage.lines:
        with scratch.scratch_folder(str(parent), name):
            pass
    return [Violation("leftover", str(path), "a job's folder was left") for path in parent.iterdir()]


def _look_at_logs(actors: list[Actor]) -> list[Violation]:
    found = []
    for actor in actors:
        text = actor.log.read_text(errors="replace") if actor.log.exists() else ""
        for line, each in enumerate(text.splitlines()):
            if "Traceback (most recent call last)" in each:
                place = "\n".join(text.splitlines()[max(0, line - 2) : line + 40])
                found.append(Violation("log", actor.name, f"an error that nobody expected:\n{place}"))
                break
    return found


def _count(report: Report, evidence: Evidence, faults: Faults) -> None:
    report.faults = faults.counts
    report.sorts = Counter(each.sort for each in evidence.invoked.values())
    report.states = Counter(each.state or "none" for each in evidence.final)
    report.acknowledged = len({each.job for each in evidence.of(Acknowledged)})
    report.executions = len(evidence.executions)
    report.reruns = report.executions - len(evidence.by_subject)
    report.excused = evidence.excused
    report.lives = {name: actor.lives for name, actor in faults._stage.actors.items()}


def _listed(counts: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
