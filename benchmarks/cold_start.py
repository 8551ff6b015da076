"""Cold starts: a fresh interpreter runs a short script, and this process holds the watch.

"First result" is from just before the interpreter is started until the script has its result in hand. "Exit" is until
its process is gone. The scripts in `cold/` are what a user would write.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from benchmarks.fresh import run_python
from benchmarks.measuring import Reading
from benchmarks.plan import Contender, Side

SCRIPTS = Path(__file__).parent / "cold"
IMPORT_REPEATS = 5  # the difference of two short times is mostly noise


def measure_cold(contender: Contender) -> list[Reading]:
    """First result and exit of one contender, or the time of the import alone."""
    with tempfile.TemporaryDirectory(prefix="cluster-benchmark-") as scratch:
        match contender.side:
            case Side.MEMORY:
                return start("cluster_embedded.py", "memory:")
            case Side.SQLITE:
                return start("cluster_embedded.py", f"sqlite:///{scratch}/cold.db")
            case Side.EXECUTOR:
                return start("process_pool_executor.py", contender.start_method)
            case Side.POOL:
                return start("multiprocessing_pool.py", contender.start_method)
            case Side.LOKY:
                return start("loky.py", "")
            case Side.IMPORT:
                return [Reading("import over bare", median(import_milliseconds() for _ in range(IMPORT_REPEATS)))]
            case _:
                raise ValueError(f"{contender.side} is started long before it is used; it has no cold start")


def start(script: str, argument: str) -> list[Reading]:
    """Run one script and read its clock."""
    run_python(str(SCRIPTS / script), argument)  # everyone's bytecode is there, and in the system's memory
    run = run_python(str(SCRIPTS / script), argument)
    first, answer = run.output.split()
    if answer != "1024":
        raise AssertionError(f"{script} printed {answer} where 1024 was due")
    return [Reading("first result", (float(first) - run.began) * 1e3), Reading("exit", (run.ended - run.began) * 1e3)]


def import_milliseconds() -> float:
    """How much longer an interpreter takes that also imports the kit; both are started one after the other."""
    return milliseconds_of("import cluster") - milliseconds_of("pass")


def milliseconds_of(code: str) -> float:
    """How long an interpreter takes that does only this."""
    run = run_python("-c", code)
    return (run.ended - run.began) * 1e3
