"""`make mutants [MODULE=policy]`: how many small faults in what decides over jobs do the tests of its rooms find?"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.mutants.operators import Mutant, mutants
from tests.mutants.trial import (
    BROKEN,
    ROOT,
    SUITE,
    SURVIVED,
    Crew,
    Importer,
    Patience,
    Rehearsal,
    Session,
    bounded,
    in_fork,
    own_tests,
    put_in,
    run_pytest,
)

EQUIVALENT = Path(__file__).parent / "equivalent.toml"


def deciding_modules() -> list[str]:
    """The modules whose branches `make coverage` asks for, from the project's root."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["coverage"]["report"]["include"]
    return sorted(
        str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern) if path.suffix == ".py"
    )


def mutants_of(path: str) -> list[Mutant]:
    """All mutants of a module."""
    return mutants(path, (ROOT / path).read_text())


def equivalent_mutants() -> dict[tuple[str, str, str, str], str]:
    """Those that no test can find, by module, function, line and mutated line, with the reason."""
    listed = tomllib.loads(EQUIVALENT.read_text()).get("mutant", [])
    return {(one["module"], one["function"], one["was"], one["now"]): one["because"] for one in listed}


def key_of(mutant: Mutant) -> tuple[str, str, str, str]:
    """How the list of equivalent mutants names one."""
    return mutant.path, mutant.scope, mutant.was, mutant.now


@dataclass
class Score:
    """What came of a module's mutants."""

    found: int = 0
    survived: int = 0
    equivalent: int = 0

    @property
    def share(self) -> float:
        """Per cent that were found, of those that could be."""
        return 100.0 * self.found / max(1, self.found + self.survived)

    def __str__(self) -> str:
        """For a table."""
        return f"{self.share:5.1f} %  {self.found:4} of {self.found + self.survived:4} found, {self.equivalent:3} equivalent"


class Judge:
    """Tries mutants, so many at a time, and keeps the score."""

    def __init__(self, chosen: Sequence[Mutant], tests: Sequence[str], folder: Path, places: int) -> None:
        self._chosen = chosen
        self._tests = tests
        self._rehearsal_file = folder / "rehearsal.json"
        self._survived_file = folder / "survived"  # numbers of mutants, a line each: written by forks
        self._broken_file = folder / "broken"  # those whose function could not be given other code
        self._places = places
        self._out = os.fdopen(os.dup(1), "w", buffering=1)  # pytest takes the other one

    def judge(self) -> dict[int, bool]:
        """Try each of them, and tell of the survivors as they come; whether each, by its number, survived."""
        for file in (self._survived_file, self._broken_file):
            file.touch()
        # A process of its own, for it imports the kit: a module with a fault in it must be imported first.
        pid = os.fork()
        if not pid:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # pytest's dots, of thousands of sessions
            os._exit(run_pytest(Session(self._try_functions), self._tests))
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"without a mutant, the tests do not pass: {' '.join(self._tests)}")
        at_import = [number for number, mutant in enumerate(self._chosen) if not mutant.scope]
        self._try_imports(sorted([*at_import, *_numbers(self._broken_file)]))
        survived = set(_numbers(self._survived_file))
        return {number: number in survived for number in range(len(self._chosen))}

    def _try_functions(self, session: Session) -> None:
        began = time.monotonic()
        if in_fork(lambda _: session.rehearse(self._rehearsal_file)) != SURVIVED:
            os._exit(1)
        rehearsal = Rehearsal(self._rehearsal_file)
        self._say(f"{len(session.items)} tests, rehearsed in {time.monotonic() - began:.0f} s")
        crew = Crew(self._places, self._note)
        for number, mutant in enumerate(self._chosen):
            if number and mutant.path != self._chosen[number - 1].path:
                self._say(f"{number} of {len(self._chosen)} tried: {mutant.path} is next")
            if mutant.scope:
                crew.put(number, partial(_try_function, session, rehearsal, mutant))
        crew.finish()

    def _try_imports(self, numbers: Sequence[int]) -> None:
        """Those that must be imported: first with the module's own tests alone, since to collect all takes seconds."""
        self._say(f"{len(numbers)} mutants at import")
        self._check_faultless([self._chosen[number].path for number in numbers])
        passed: list[int] = []
        crew = Crew(self._places, lambda number, status: passed.append(number) if status == SURVIVED else None)
        for number in numbers:
            mutant = self._chosen[number]
            crew.put(number, partial(self._try_import, mutant, self._first_tests(mutant.path)))
        crew.finish()
        crew = Crew(self._places, self._note)
        for number in sorted(passed):
            crew.put(number, partial(self._try_import, self._chosen[number], self._tests))
        crew.finish()

    def _check_faultless(self, paths: Sequence[str]) -> None:
        """Each first set of tests must pass with a module that is only read from elsewhere: else no verdict counts."""
        sets = list({tuple(self._first_tests(path)): path for path in paths}.items())
        failed: list[str] = []
        crew = Crew(self._places, lambda number, status: failed.extend(sets[number][0] if status != SURVIVED else ()))
        for number, (tests, path) in enumerate(sets):
            faultless = Mutant(path, 1, 1, "", "", "", (ROOT / path).read_text())
            crew.put(number, partial(self._try_import, faultless, tests))
        crew.finish()
        if failed:
            sys.exit(f"without a fault, these tests do not pass where a module is imported anew: {' '.join(failed)}")

    def _first_tests(self, path: str) -> Sequence[str]:
        if self._tests is not SUITE:
            return self._tests
        own = ROOT / own_tests(path)
        return [str((own if own.exists() else own.parent).relative_to(ROOT))]  # its room's, if it has none

    def _try_import(self, mutant: Mutant, tests: Sequence[str], patience: Patience) -> int:
        rehearsal = Rehearsal(self._rehearsal_file)
        bounded()
        sys.meta_path.insert(0, Importer(mutant))
        verdicts: list[int] = []

        def use(session: Session) -> None:
            verdicts.append(session.run(rehearsal.order(mutant, session.items), rehearsal, patience))

        run_pytest(Session(use), tests)
        return verdicts[0] if verdicts else BROKEN  # it could not even be collected

    def _note(self, number: int, status: int) -> None:
        mutant = self._chosen[number]
        if status == BROKEN and mutant.scope:
            _append(self._broken_file, number)
        elif status == SURVIVED:
            _append(self._survived_file, number)
            self._say(f"\n{mutant.path}:{mutant.line}: survived in {mutant.scope or 'the module'}")
            self._say(f"  - {mutant.was}\n  + {mutant.now}")

    def _say(self, text: str) -> None:
        self._out.write(f"{text}\n")


def _try_function(session: Session, rehearsal: Rehearsal, mutant: Mutant, patience: Patience) -> int:
    bounded()
    return session.run(rehearsal.order(mutant, session.items), rehearsal, patience) if put_in(mutant) else BROKEN


def _append(file: Path, number: int) -> None:
    with file.open("a") as lines:
        lines.write(f"{number}\n")


def _numbers(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if at least the wanted share was found."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--module", default="", help="only modules whose path holds this, or one of these (a,b)")
    parser.add_argument("--every", type=int, default=1, help="only each so many-th mutant")
    parser.add_argument("--own", action="store_true", help="only with the tests of the module itself")
    parser.add_argument("--least", type=float, default=90.0, help="per cent that must be found in each module")
    parser.add_argument(
        "--doubt", action="store_true", help="only those listed as equivalent: is one found all the same?"
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="so many at a time")
    said = parser.parse_args(arguments)
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"
    began = time.monotonic()
    equivalent = equivalent_mutants()
    paths = [path for path in deciding_modules() if any(part in path for part in said.module.split(","))]
    every = [mutant for path in paths for mutant in mutants_of(path)][:: said.every]
    if not every:
        sys.exit(f"no module's path holds {said.module!r}")
    chosen = [mutant for mutant in every if (key_of(mutant) in equivalent) == said.doubt]
    tests = [f"{own_tests(path)}" for path in paths] if said.own else SUITE
    with tempfile.TemporaryDirectory() as folder:
        survived = Judge(chosen, tests, Path(folder), said.jobs).judge()
    print()
    if said.doubt:
        doubtful = [mutant for number, mutant in enumerate(chosen) if not survived[number]]
        for one in doubtful:
            print(f"{one.path}:{one.line}: listed as equivalent, and found all the same: {one.now}")
        return int(bool(doubtful))
    scores: dict[str, Score] = {}
    for mutant in every:
        scores.setdefault(mutant.path, Score()).equivalent += key_of(mutant) in equivalent
    for number, mutant in enumerate(chosen):
        scores[mutant.path].survived += survived[number]
        scores[mutant.path].found += not survived[number]
    for path, score in scores.items():
        print(f"{score}  {path}")
    total = Score(*(sum(getattr(one, name) for one in scores.values()) for name in ("found", "survived", "equivalent")))
    print(f"{total}  in all, in {time.monotonic() - began:.0f} s")
    return int(any(score.share < said.least for score in scores.values()))


if __name__ == "__main__":
    sys.exit(main())
