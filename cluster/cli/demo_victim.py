"""The process that the demo kills: client, master and worker in one, run as `python -m cluster.cli.demo_victim`.

Its only argument is a `Task` as JSON. It submits all jobs, has them acknowledged, and tells of them in one line of JSON;
then it says in a line each how it stands, until it is killed or done. It is handed the reading end of a pipe as its
standard input: when that ends, the demo itself is gone, and so is the reason for this process.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import msgspec

import cluster
from cluster.cli.demo_run import Snapshot, Watch, submit_analysis


class Task(msgspec.Struct, frozen=True):
    """What to analyse, and where to keep it."""

    store: str
    root: str
    slots: int | None


class Acknowledged(msgspec.Struct, frozen=True):
    """The first line: these jobs are on disk; from here on none may be lost."""

    jobs: list[str]


def main() -> None:
    """Submit, tell, and work until killed."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    threading.Thread(target=end_with_the_demo, name="end-with-the-demo", daemon=True).start()
    with cluster.local(slots=task.slots, store=task.store) as c:
        jobs = submit_analysis(c, Path(task.root))
        c.flush()
        tell(Acknowledged([job.id for job in jobs]))
        watch = Watch(c, jobs)
        watch.until(len(jobs) // 2, tell)
        watch.until(len(jobs), tell)


def tell(line: Acknowledged | Snapshot) -> None:
    """One line to the demo."""
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def end_with_the_demo() -> None:
    """Wait until the demo's end of the pipe is closed, then leave without a word, as after a SIGKILL."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
