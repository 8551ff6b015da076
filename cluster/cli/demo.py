"""The demo: a real analysis on a cluster of processes, and each kind of process killed in the middle of it.

    this process: client ──► master ◄── worker one ── nursery ── child   ✗ a child, after a quarter of the jobs
                               ✗    ◄── worker two ── nursery ── child   ✗ a worker, after half of them
                               the keeper starts again what dies         ✗ the master, after three quarters

Everything is what `cluster up configs/local.yaml` makes; only the state lies in a folder of the demo's own, and the
port is whichever is free. In the end every acknowledged job must have exactly one outcome. Ctrl-C at any moment brings
the cluster down; its store stays where it was announced to be.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from rich.console import Console

import cluster
from cluster.cli.demo_kill import kill_child
from cluster.cli.demo_report import (
    Result,
    files_in,
    print_complaints,
    print_most_complex,
    print_results,
    state_folder,
    store_url,
)
from cluster.cli.demo_run import Watch, audit, packages_of, submit_analysis
from cluster.cli.demo_tasks import standard_library
from cluster.cli.demo_view import View
from cluster.deploy.launch import LaunchedCluster
from cluster.deploy.status import status

STORE = "demo.db"
CONFIG = "local.yaml"


def run_demo(state: Path | None) -> int:
    """Tell the whole story; 0 if nothing was lost."""
    console = Console(highlight=False)
    folder = state_folder(state, (STORE,))
    root = standard_library()
    console.print(f"Analysing the standard library of Python {platform.python_version()}: {root}")
    console.print(f"State: {folder}", soft_wrap=True)
    result = run(console, folder, root)
    print_most_complex(console, result.packages, root)
    console.print()
    print_results(console, [result])
    console.print(f"State: {folder}", soft_wrap=True)
    told = result.audit
    console.print(f"jobs done {told.done:,}, re-run {told.rerun}, lost {len(told.lost)}", style="bold")
    if not told.is_clean:
        print_complaints(console, [result])
        return 1
    console.print(f"every acknowledged job has exactly one outcome: {files_in(result)}")
    return 0


def config_file() -> Path:
    """The checkout's `configs/local.yaml`, or the copy that an installed package carries."""
    here = Path(__file__).parent
    for file in (here.parents[1] / "configs" / CONFIG, here / CONFIG):
        if file.exists():
            return file
    raise cluster.Refused(f"the demo's configuration {CONFIG} is missing from this installation; install it anew")


def overrides_for(folder: Path) -> dict[str, str]:
    """What differs from the file: a state of the demo's own, and a port that is free."""
    return {
        "name": f"demo-{os.getpid()}",
        "master__bind": "tcp://127.0.0.1:0",
        "master__store": store_url(folder, STORE),
        "master__keys": str(folder / "keys"),
        "log__dir": str(folder / "logs"),
    }


def run(console: Console, folder: Path, root: Path) -> Result:
    """The analysis, with a child, a worker and the master killed on the way."""
    file, overrides = config_file(), overrides_for(folder)
    began = time.monotonic()
    with cluster.launch(file, **overrides) as c, View(console) as view:
        view.say(f"up after {time.monotonic() - began:.1f} s: a keeper, a master, two workers of one slot each")
        jobs = submit_analysis(c, root)
        c.flush()
        watch = Watch(c, jobs)
        murders = _murders(c, watch)
        for quarter in (1, 2, 3):
            so_far = watch.until(len(jobs) * quarter // 4, view.show)
            view.say(f"after {so_far.done:,} jobs: {next(murders)}")
        end = watch.until(len(jobs), view.show)
        return Result("on a cluster", audit(c, [job.id for job in jobs]), tuple(packages_of(c)), end.seconds)


def _murders(c: cluster.Cluster, watch: Watch) -> Iterator[str]:
    """Kill one thing after another; what was killed, in words."""
    assert isinstance(c, LaunchedCluster)  # noqa: S101 - what `launch` returns
    workers = {worker.name: worker.pid for worker in c.workers()}
    victim = watch.last_pid
    name = next((name for name, pid in workers.items() if kill_child(victim, of=pid)), "")
    yield f"SIGKILL to child {victim} of worker {name}" if name else f"child {victim} had ended by itself"
    name, pid = next(iter(workers.items()))
    yield _kill(pid, f"worker {name}")
    yield _kill(status(c.config).master.pid, "the master")


def _kill(pid: int, what: str) -> str:
    process = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)  # psutil makes sure that the pid is still this process's
    return f"SIGKILL to {what} (pid {pid}); the keeper restarts it"
