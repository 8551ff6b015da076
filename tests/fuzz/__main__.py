"""`python -m tests.fuzz --inputs N [--target NAME] [--engine atheris|built-in] [--seed S] [--keep]`.

Each target runs in a process of its own. With atheris (`pip install -e .[fuzz]`) the run is guided by coverage. A finding is
put into the corpus, printed with its traceback, and is the exit status; `--keep` also keeps what reached something new.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from tests.fuzz.engine import Run
    from tests.fuzz.targets import Target

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run targets; the exit status says whether anything was found."""
    is_guided = importlib.util.find_spec("atheris") is not None
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many in all, shared out among the targets")
    parser.add_argument("--target", help="this one only, with all the inputs")
    parser.add_argument("--engine", choices=["atheris", "built-in"], default="atheris" if is_guided else "built-in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="add to the corpus what reached something new")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        run_here(given.target, given.inputs, given.seed, given.engine)
        return 0
    return run_all(given)


def run_all(given: argparse.Namespace) -> int:
    """One process after the other."""
    from tests.fuzz.engine import CORPUS, keep, name_of
    from tests.fuzz.targets import TARGETS

    if given.target and given.target not in TARGETS:
        print(f"no target {given.target!r}; there are {', '.join(TARGETS)}")
        return 2
    targets = [TARGETS[given.target]] if given.target else list(TARGETS.values())
    print(f"CPython {platform.python_version()}, msgspec {msgspec.__version__}, {given.engine}, seed {given.seed}")
    print(f"{'target':<18}{'inputs':>12}{'seconds':>10}{'per s':>10}{'kinds':>7}")
    logging.disable(logging.CRITICAL)
    total, seconds = 0, 0.0
    for target, inputs in shares(targets, given.inputs):
        run = run_apart(target, inputs, given)
        total, seconds = total + run.inputs, seconds + run.seconds
        rate = run.inputs / max(run.seconds, 1e-9)
        print(f"{target.name:<18}{run.inputs:>12,}{run.seconds:>10.1f}{rate:>10,.0f}{len(run.labels):>7}", flush=True)
        if run.trouble:
            print(run.trouble)
            if run.finding is not None:
                path = CORPUS / target.name / f"found-{name_of(run.finding)}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(run.finding)
                print(f"kept as {path.relative_to(ROOT)}")
            return 1
        if given.keep:
            keep(run)
    print(f"{'all':<18}{total:>12,}{seconds:>10.1f}")
    return 0


def shares(targets: list[Target], inputs: int) -> list[tuple[Target, int]]:
    """How many inputs each gets: together at least as many as asked for."""
    whole = sum(target.share for target in targets)
    return [(target, max(1, -int(-inputs * target.share // whole))) for target in targets]


def run_apart(target: Target, inputs: int, given: argparse.Namespace) -> Run:
    """Have a process of its own run one target."""
    from tests.fuzz.engine import Run

    command = [sys.executable, "-m", "tests.fuzz", "--child", "--target", target.name, "--inputs", str(inputs)]
    command += ["--seed", str(given.seed), "--engine", given.engine]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    with contextlib.suppress(IndexError, msgspec.DecodeError):
        return msgspec.json.decode(ran.stdout.splitlines()[-1], type=Run)
    trouble = f"the process ended with {ran.returncode}\n{ran.stderr[-4000:].decode(errors='replace')}"
    return Run(target.name, given.engine, 0, 0.0, {}, None, trouble)


def run_here(name: str, inputs: int, seed: int, engine_name: str) -> None:
    """Be that process: the last line printed is the run."""
    logging.disable(logging.CRITICAL)
    if engine_name == "built-in":
        from tests.fuzz import engine, targets

        tell(engine.run_built_in(targets.TARGETS[name], inputs, seed))
        return
    import atheris

    with atheris.instrument_imports(include=["cluster"]):
        from tests.fuzz import engine, targets
    engine.run_atheris(targets.TARGETS[name], inputs, seed, tell)


def tell(run: Run) -> None:
    """Print a run for whoever started this process."""
    print(msgspec.json.encode(run).decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
