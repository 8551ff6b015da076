"""`python -m benchmarks.profiled MODULE [ARGUMENT ...]`: as `python -m MODULE ...`, and it can be asked what it did.

Where to ask, and whether to sample or to mark milestones, the environment says. The kit knows nothing of this.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path

from benchmarks import milestones
from benchmarks.watch import Watch

SOCKET_VARIABLE = "BENCHMARK_WATCH"
SAMPLE_VARIABLE = "BENCHMARK_SAMPLE"
MARK_VARIABLE = "BENCHMARK_MARK"


def package_folder() -> str:
    """Where the kit's sources are; it is not imported for that."""
    spec = importlib.util.find_spec("cluster")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("there is no package cluster to be watched")
    return str(Path(spec.origin).parent)


def main() -> None:
    watch = Watch(package_folder())
    watch.start_timing_the_collector()
    if os.environ.get(SAMPLE_VARIABLE):
        watch.start_sampling()
    if os.environ.get(MARK_VARIABLE):
        milestones.install(watch.marks)
    watch.answer_at(os.environ[SOCKET_VARIABLE])
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
