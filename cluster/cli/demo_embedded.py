"""The demo in one process (`--embedded`): a real analysis, twice, and the worst that can happen to it there.

    this process                                    the second run's process
    first.db: client, master, worker                second.db: client, master, worker
       └ nursery ─ children  ✗ one of them             └ nursery ─ children
                                                    ✗ all of them; then this process opens second.db and goes on

The first run is killed in one child and goes on by itself. The second run lives in a process of its own, which is killed
as a whole; what it had acknowledged is in its store, and this process finishes it. In the end both runs must have told
the same of the standard library, and of every acknowledged job exactly one outcome. Ctrl-C at any moment ends what runs;
the stores stay where they were announced to be.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
from rich.console import Console

import cluster
from cluster.cli.demo_kill import kill_child, kill_with_descendants
from cluster.cli.demo_report import (
    Result,
    files_in,
    print_complaints,
    print_most_complex,
    print_results,
    state_folder,
    store_url,
)
from cluster.cli.demo_run import Snapshot, Watch, audit, packages_of, submit_analysis
from cluster.cli.demo_tasks import standard_library
from cluster.cli.demo_victim import Acknowledged, Task
from cluster.cli.demo_view import View

FIRST_STORE = "first.db"
SECOND_STORE = "second.db"


def run_embedded(state: Path | None, slots: int | None) -> int:
    """Tell the whole story; 0 if nothing was lost."""
    console = Console(highlight=False)
    folder = state_folder(state, (FIRST_STORE, SECOND_STORE))
    root = standard_library()
    console.print(f"Analysing the standard library of Python {platform.python_version()}: {root}")
    console.print(f"State: {folder}", soft_wrap=True)

    first = first_run(console, folder, root, slots)
    second = second_run(console, folder, root, slots)

    print_most_complex(console, first.packages, root)
    console.print()
    print_results(console, [first, second])
    console.print(f"State: {folder}", soft_wrap=True)
    return verdict(console, first, second)


def first_run(console: Console, folder: Path, root: Path, slots: int | None) -> Result:
    """A run in this process, with one child killed halfway."""
    console.print("\n[bold]1. A durable run; one child is killed halfway[/]")
    store = store_url(folder, FIRST_STORE)
    with cluster.local(slots=slots, store=store) as c, View(console) as view:
        jobs = submit_analysis(c, root)
        c.flush()
        watch = Watch(c, jobs)
        halfway = watch.until(len(jobs) // 2, view.show)
        victim = watch.last_pid
        if kill_child(victim):
            view.say(f"SIGKILL to child {victim} after {halfway.done:,} jobs; the others go on")
        end = watch.until(len(jobs), view.show)
        return Result("child killed", audit(c, [job.id for job in jobs]), tuple(packages_of(c)), end.seconds)


def second_run(console: Console, folder: Path, root: Path, slots: int | None) -> Result:
    """A run in another process, killed as a whole and finished here."""
    console.print("\n[bold]2. A second run; client, master, worker and children are killed halfway[/]")
    store = store_url(folder, SECOND_STORE)
    with View(console) as view:
        acknowledged, seconds = run_and_kill(Task(store, str(root), slots), view)
        opening = time.monotonic()
        with cluster.local(slots=slots, store=store) as c:
            jobs = [c.job(job) for job in acknowledged]
            done_before = sum(info.state is cluster.JobState.COMPLETED for info in c.jobs())
            view.say(f"the store is open again: {done_before:,} jobs are done, {len(jobs) - done_before:,} to go")
            # Reopening the store is part of what the kill has cost.
            seconds += time.monotonic() - opening
            end = Watch(c, jobs, seconds_before=seconds).until(len(jobs), view.show)
            return Result("all killed, resumed", audit(c, acknowledged), tuple(packages_of(c)), end.seconds)


def run_and_kill(task: Task, view: View) -> tuple[list[str], float]:
    """Run the victim until half of its jobs are done, then kill it and everything below it.

    Returns:
        The jobs that it had acknowledged, and how many seconds it had worked.
    """
    with victim_process(task) as process:
        lines = victim_lines(process)
        first_line = next(lines, None)
        if first_line is None:
            raise cluster.ClusterError(
                f"the second run's process ended with status {process.wait()} before it had its jobs acknowledged; "
                "its own words are above"
            )
        acknowledged = msgspec.json.decode(first_line, type=Acknowledged).jobs
        seconds = 0.0
        for line in lines:
            snapshot = msgspec.json.decode(line, type=Snapshot)
            seconds = snapshot.seconds
            view.show(snapshot)
            if snapshot.done * 2 >= snapshot.total:
                break
        began = time.monotonic()
        killed = kill_with_descendants(process.pid)
        view.say(f"SIGKILL to the whole process group: {killed} processes, gone in {time.monotonic() - began:.2f} s")
        return acknowledged, seconds


@contextmanager
def victim_process(task: Task) -> Iterator[subprocess.Popen[bytes]]:
    """The second run's process, in a session of its own; however this is left, nothing of it stays."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli.demo_victim", msgspec.json.encode(task).decode()],
        stdin=subprocess.PIPE,  # it ends with this pipe, should the demo itself be killed
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_with_descendants(process.pid)
        process.communicate()


def victim_lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What the victim says, until it ends."""
    output: IO[bytes] | None = process.stdout
    if output is None:
        raise AssertionError("the victim is started with a pipe as its output")
    return iter(output)


def verdict(console: Console, first: Result, second: Result) -> int:
    """The last sentence, and the exit status."""
    done = first.audit.done + second.audit.done
    rerun = first.audit.rerun + second.audit.rerun
    lost = len(first.audit.lost) + len(second.audit.lost)
    console.print(f"jobs done {done:,}, re-run {rerun}, lost {lost}", style="bold")
    if not (first.audit.is_clean and second.audit.is_clean):
        print_complaints(console, [first, second])
        return 1
    if first.packages != second.packages:
        console.print("the two runs came to different results", style="bold red")
        return 1
    console.print(f"every acknowledged job has exactly one outcome, and both runs tell the same of {files_in(first)}")
    return 0
