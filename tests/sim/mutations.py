"""Faults planted in the core, the master and both sides of the wire, one at a time: a simulator that misses one of them proves nothing.

Each is applied to a copy of the package in a temporary folder, and the simulator runs there, in a process of its own,
until a seed fails. `python -m tests.sim.mutations` prints which seed found which fault, and what it said.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 2000
TIMEOUT_SECONDS = 300.0


class Mutation(Struct, frozen=True):
    """Replace a text that occurs exactly once."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "the fence check is dropped",
        "core/board.py",
        "if lease is None or lease.is_revoked or lease.worker != worker or lease.job.fence != fence:",
        "if lease is None:",
    ),
    Mutation(
        "a revoked lease may still be reported on",
        "core/settlement.py",
        "        if lease is None:\n            effects.append(_fence_off(board, event, report))\n            continue",
        "        lease = board.leases.get(report.fence)\n        if lease is None:\n            continue",
    ),
    Mutation(
        "told before the commit",
        "master/committer.py",
        "        try:\n            if records:\n                self._store.commit(records)",
        "        self._audience.tell_durable(told)\n        try:\n            if records:\n                self._store.commit(records)",
    ),
    Mutation(
        "a lost worker's jobs are not requeued",
        "core/workers.py",
        "        settlement.settle(board, lease, report, now, effects)",
        "        del board.leases[lease.fence]",
    ),
    Mutation(
        "crashes are not counted",
        "core/policy.py",
        "        return Spent(spent.failures, spent.crashes + 1)",
        "        return Spent(spent.failures, spent.crashes)",
    ),
    Mutation(
        "one retry too many",
        "core/policy.py",
        "if spent.failures > options.retry.max_retries or",
        "if spent.failures > options.retry.max_retries + 1 or",
    ),
    Mutation(
        "resources are given back twice",
        "core/board.py",
        "holder.free[name] = holder.free.get(name, 0) + amount",
        "holder.free[name] = holder.free.get(name, 0) + 2 * amount",
    ),
    Mutation(
        "a requeued job is leased although its last attempt has still to stop",
        "core/job.py",
        "return self.state is _QUEUED and not self.stopping",
        "return self.state is _QUEUED",
    ),
    Mutation(
        "dependants of a failed job go on waiting",
        "core/settlement.py",
        "            grave.append((dependant, _dependency_end(dead.spec.id, dead.state)))",
        "            pass",
    ),
    Mutation(
        "dependants of a failed job run all the same",
        "core/settlement.py",
        "            board.move(dependant, Cause.DEPENDENCY_FAILED)\n",
        "            dependant.unmet = 0\n            board.enqueue(dependant, Cause.DEPENDENCIES_MET)\n            continue\n",
    ),
    Mutation(
        "an at-most-once job starts before its lease is durable",
        "core/leases.py",
        "attempt, not job.must_be_durable)",
        "attempt, True)",
    ),
    Mutation(
        "a job with a key starts before its admission is durable",
        "core/job.py",
        'spec.key != "" or ',
        "",
    ),
    Mutation(
        "records of undone jobs stay in the log",
        "master/committer.py",
        "if effect.seq in gone:\n                continue",
        "if effect.seq in gone and type(effect) is Admitted:\n                continue",
    ),
    Mutation(
        "undone admissions are not struck out of the store",
        "core/admission.py",
        "    effects.append(Undone(job.seq))\n",
        "",
    ),
    Mutation(
        "a failed group is not written again",
        "master/committer.py",
        "            self._log[:0] = group\n",
        "",
    ),
    Mutation(
        "the board is not told of durable outcomes",
        "master/master.py",
        "            self.decide(events.OutcomesDurable(tuple(settled)))",
        "            pass",
    ),
    Mutation(
        "fences start anew with each master",
        "core/board.py",
        "self._next_fence = (epoch << FENCE_BITS) + 1",
        "self._next_fence = (1 << FENCE_BITS) + 1",
    ),
    Mutation(
        "giving back spends an attempt",
        "core/leases.py",
        "        lease.job.attempts -= 1\n",
        "",
    ),
    Mutation(
        "a job does not expire while it is leased",
        "core/workers.py",
        "            control.stop(board, job, Ending.EXPIRED, now, effects)",
        "            if not job.fence:\n                control.stop(board, job, Ending.EXPIRED, now, effects)",
    ),
    Mutation(
        "the master does not forgive its own sleep",
        "core/workers.py",
        "    if slept:\n",
        "    if False and slept:\n",
    ),
    Mutation(
        "a restart forgets who holds which lease",
        "core/restore.py",
        "        elif record.fence:\n",
        "        elif False and record.fence:\n",
    ),
    Mutation(
        "finished items of a chunk run again",
        "core/leases.py",
        "ranges = tuple(job.chunk.pending) if job.chunk else ((0, spec.items),)",
        "ranges = ((0, spec.items),)",
    ),
    Mutation(
        "a requeue keeps the spent budgets",
        "core/control.py",
        "    job.attempts = job.failures = job.crashes = job.outgrown = 0\n",
        "",
    ),
    Mutation(
        "a new budget is not written down",
        "core/control.py",
        "        effects.append(Rebudgeted(job.seq, admission_of(job)))\n",
        "",
    ),
    Mutation(
        "a result is gone while its job runs again",
        "master/work_desk.py",
        "outcome = self._master.store.result(job)\n",
        "outcome = self._master.store.outcome(job)\n"
        "        if outcome is not None and outcome.state is not JobState.COMPLETED:\n"
        "            return None\n",
    ),
    Mutation(
        "an order to stop is lost",
        "core/board.py",
        "        effects.append(TellStop(lease.worker, Stop(lease.fence, ending)))",
        "        self.release(lease)",
    ),
    Mutation(
        "watchers are not told that a job is undone",
        "master/master.py",
        '        if refused.kind != "store":\n',
        "        if True:\n",
    ),
    Mutation(
        "a worker that comes back keeps leases that never reached it",
        "core/workers.py",
        "if known is not None and event.held is not None:",
        "if False:",
    ),
    Mutation(
        "a worker that comes back loses leases that it names",
        "core/workers.py",
        "if fence not in named], effects)",
        "], effects)",
    ),
    Mutation(
        "a wall clock that was set back makes restored jobs wait",
        "core/restore.py",
        "min(record.due - now.wall, _longest_delay(record))",
        "(record.due - now.wall)",
    ),
    Mutation(
        "a job is refused before what a failed commit wrote of it is struck out",
        "master/committer.py",
        "is_waiting = isinstance(effect, TellRefused) and effect.job in self._condemned",
        "is_waiting = False",
    ),
    Mutation(
        "leases that became durable are not handed out",
        "master/mailboxes.py",
        "        return stops, granted",
        "        return stops, []",
    ),
    Mutation(
        "a request is carried out as often as it comes",
        "master/requests.py",
        "        return self._store.answer(request) if recent is None else recent",
        "        return None",
    ),
    Mutation(
        "a request's answer dies with the master",
        "master/requests.py",
        "        return [Answered(request, answer, wall + KEEP_SECONDS)]",
        "        return []",
    ),
    Mutation(
        "who watches another one's job is not told of its end",
        "master/sessions.py",
        "if wanted <= run]",
        "if False]",
    ),
    Mutation(
        "a job that is submitted again after its end is admitted anew",
        "master/jobs_desk.py",
        "if (is_again or spec.key) and (spec.id not in board.jobs or",
        "if spec.key and (spec.id not in board.jobs or",
    ),
    Mutation(
        "a batch that comes twice is taken twice",
        "master/served_jobs.py",
        "if said.number > client.last_batch:",
        "if True:",
    ),
    Mutation(
        "what a session was told is dropped one entry too early",
        "master/told.py",
        "while self._entries and self._entries[0].number <= seen:",
        "while self._entries and self._entries[0].number <= seen + 1:",
    ),
    Mutation(
        "leases whose answer was lost are not sent again",
        "master/served_work.py",
        "if seat.unacknowledged is not None and said.seen < seat.mark:",
        "if False:",
    ),
    Mutation(
        "a registration that comes twice makes a new seat",
        "master/served_work.py",
        "            if said.number == old.number:\n",
        "            if False:\n",
    ),
    Mutation(
        "a worker is told that its reports are taken before they are durable",
        "master/served_work.py",
        "        return bool(said.reports or said.stopped or said.given_back)",
        "        return False",
    ),
    Mutation(
        "a worker that registers again names no leases",
        "wire/remote_work.py",
        "said = Register(hello, tuple(sorted(self._held)), self._number)",
        "said = Register(hello, (), self._number)",
    ),
    Mutation(
        "a worker goes on after its lease is over",
        "wire/remote_work.py",
        "if self._mono() >= self._lease_until:",
        "if False:",
    ),
    Mutation(
        "what was said while a batch was told counts as told",
        "wire/untold.py",
        "        del self.reports[: len(said.reports)]",
        "        self.reports.clear()",
    ),
    Mutation(
        "an accepted job's outcome is not awaited",
        "wire/books.py",
        "            if self._acknowledge(job):\n                self.expect(job)",
        "            self._acknowledge(job)",
    ),
    Mutation(
        "a batch without an answer is sent again as another one",
        "wire/conversation.py",
        "            unanswered = list(self._unanswered.values())",
        "            unanswered: list[calls.Submit] = []",
    ),
    Mutation(
        "the next master is not sent what the last one had not acknowledged",
        "wire/conversation.py",
        "                self._books.passed.clear()\n",
        "",
    ),
    Mutation(
        "what is awaited is not watched in the next session",
        "wire/conversation.py",
        "            yield from self._watch_again(opened.session)\n",
        "",
    ),
    Mutation(
        "a woken worker that takes nothing is counted on for ever",
        "core/waking.py",
        "            if lane.live:\n                self._placement.fresh[lane] = None\n",
        "",
    ),
    Mutation(
        "resources that come back wake nobody",
        "core/board.py",
        "            if resources or lease.memory:\n                self.waking.recheck(holder.id)\n",
        "",
    ),
    Mutation(
        "a queue that is resumed wakes nobody",
        "core/control.py",
        "        board.waking.resume(event.queue)\n",
        "",
    ),
    Mutation(
        "a worker that is lost is counted on for ever",
        "core/workers.py",
        "    board.waking.forget(worker.id)\n    del board.workers[worker.id]",
        "    del board.workers[worker.id]",
    ),
)


class Found(Struct, frozen=True):
    """How the simulator took a mutation."""

    seed: int  # -1: not found
    sentence: str


def hunt(mutation: Mutation, *, seeds: int = SEEDS, base: int = 0) -> Found:
    """Run seeds on a mutated copy until one fails."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        shutil.copytree(ROOT / "cluster", Path(folder, "cluster"), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(
            ROOT / "tests" / "sim", Path(folder, "tests", "sim"), ignore=shutil.ignore_patterns("__pycache__")
        )
        Path(folder, "tests", "__init__.py").touch()
        mutate(Path(folder, "cluster", mutation.file), mutation)
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "tests.sim", "--seeds", str(seeds), "--base", str(base), "--jobs", "1"]
        try:
            ended = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Found(-1, f"no seed within {TIMEOUT_SECONDS:g} s")
    found = re.search(r"^seed (\d+) FAILED: (.*)$", ended.stdout, re.MULTILINE)
    if found is None:
        return Found(-1, ended.stdout[-300:] + ended.stderr[-600:])
    return Found(int(found[1]), found[2])


def mutate(file: Path, mutation: Mutation) -> None:
    """Plant the fault. Raises `ValueError` where its text does not occur exactly once."""
    text = file.read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name!r}: its text occurs {text.count(mutation.old)} times in {mutation.file}")
    file.write_text(text.replace(mutation.old, mutation.new))


def main() -> int:
    """Hunt all of them, or those whose file and name have the words given."""
    missed = 0
    wanted = sys.argv[1:]
    for mutation in MUTATIONS:
        if not all(word in f"{mutation.file} {mutation.name}" for word in wanted):
            continue
        found = hunt(mutation)
        missed += found.seed < 0
        print(
            f"{'MISSED' if found.seed < 0 else f'seed {found.seed}':>10}  {mutation.name}: {found.sentence[:150]}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
