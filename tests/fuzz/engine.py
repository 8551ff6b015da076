"""The two engines that make inputs: atheris, where it is installed, and our own otherwise.

Either one varies what it has by `Mutator`; atheris also by its own ways, and keeps what reaches new code. Ours keeps what
made a target say something new. Both stop at the first thing that a target raises, and at memory that grows.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import NoReturn

from msgspec import Struct

from tests.fuzz.mutator import MAX_INPUT_BYTES, Mutator
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
# What a target may take in all, beyond what it took to get ready. The longest input has 4 KiB, and lengths of up to 4 GiB
# stand in headers.
MAX_GROWTH_KIB = 256 * 1024
LOOK_EVERY = 4096
MAX_POOL = 4000


class Run(Struct, frozen=True):
    """What a run has come to."""

    target: str
    engine: str
    inputs: int
    seconds: float
    labels: dict[str, bytes]  # the shortest input for each thing that became of one
    finding: bytes | None = None
    trouble: str = ""


def corpus(target: Target) -> list[bytes]:
    """The kept inputs of a target, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / target.name).glob("*"))]


class Course:
    """One run of one target: counts, looks at the memory, and notes what became of the inputs."""

    def __init__(self, target: Target, inputs: int, engine: str) -> None:
        self._target = target
        self._engine = engine
        self._wanted = inputs
        self._labels: dict[str, bytes] = {}
        self._count = 0
        self._started = time.monotonic()
        self._memory = 0

    def try_one(self, data: bytes) -> bool:
        """Whether something new became of it. Raises `Over` at the end, and at a finding."""
        try:
            label = self._target.run(data)
        except Exception:
            raise Over(self.result(data, traceback.format_exc())) from None
        self._count += 1
        if self._count % LOOK_EVERY == 0:
            self._look_at_memory(data)
        if self._count >= self._wanted:
            raise Over(self.result())
        known = self._labels.get(label)
        if known is None or len(data) < len(known):
            self._labels[label] = data
        return known is None

    def result(self, finding: bytes | None = None, trouble: str = "") -> Run:
        seconds = time.monotonic() - self._started
        return Run(self._target.name, self._engine, self._count, seconds, self._labels, finding, trouble)

    def _look_at_memory(self, data: bytes) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if self._memory and used > self._memory + MAX_GROWTH_KIB:
            raise Over(self.result(data, f"it takes {used - self._memory} KiB more than after {LOOK_EVERY} inputs"))
        self._memory = self._memory or used


class Over(Exception):
    """The run is done."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.run = run


def run_built_in(target: Target, inputs: int, seed: int) -> Run:
    """Our own engine: the same seed, inputs and corpus make the same run."""
    chance = random.Random(seed)
    mutator = Mutator(chance)
    pool = [*target.seeds(), *corpus(target)]
    course = Course(target, inputs, "built-in")
    try:
        for data in pool[:inputs]:
            course.try_one(data)
        while True:
            data = mutator.mutate(pool[int(chance.random() * len(pool))], pool, target.skip)
            if course.try_one(data):
                pool.append(data)
                del pool[:-MAX_POOL]
    except Over as over:
        return over.run


def run_atheris(target: Target, inputs: int, seed: int, tell: Callable[[Run], None]) -> NoReturn:
    """The coverage-guided engine. Ends the process, after it has told."""
    import atheris

    mutator = Mutator(random.Random(seed))
    seeds = [*target.seeds(), *corpus(target)]
    course = Course(target, inputs, "atheris")

    def end(run: Run) -> NoReturn:
        tell(run)
        sys.stdout.flush()
        shutil.rmtree(folder)
        os._exit(0)

    def try_one(data: bytes) -> None:
        try:
            course.try_one(data)
        except Over as over:
            end(over.run)

    def vary(data: bytes, max_size: int, seed: int) -> bytes:
        # Half of them by structure, which bytes alone seldom hit.
        varied: bytes = mutator.mutate(data, seeds, target.skip) if seed % 2 else atheris.Mutate(data, max_size)
        return varied[:max_size]

    folder = Path(tempfile.mkdtemp(prefix="cluster-fuzz-"))
    for number, data in enumerate(seeds):
        (folder / f"{number:05}").write_bytes(data)
    options = [f"-max_len={MAX_INPUT_BYTES}", f"-seed={seed + 1}", "-timeout=60", "-verbosity=0", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, str(folder)], try_one, custom_mutator=vary)
    atheris.Fuzz()
    raise AssertionError("libFuzzer ended by itself")


def keep(run: Run) -> list[Path]:
    """Put the shortest inputs of a run into the corpus, of which neither a kept one nor a seed has said as much."""
    folder = CORPUS / run.target
    folder.mkdir(parents=True, exist_ok=True)
    target = TARGETS[run.target]
    known = {target.run(data) for data in [*target.seeds(), *corpus(target)]}
    kept = []
    for label, data in sorted(run.labels.items()):
        if label not in known:
            path = folder / name_of(data)
            path.write_bytes(data)
            kept.append(path)
    return kept


def name_of(data: bytes) -> str:
    """What an input's file is called."""
    return blake2b(data, digest_size=8).hexdigest()
