"""The suite's share of fuzzing: the kept inputs once more, some new ones, and whether a fault would be found at all."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.effects import Admitted
from cluster.store import journal
from cluster.wire import codec
from cluster.wire.calls import CALLS
from cluster.wire.codec import Request
from tests.fuzz import desks
from tests.fuzz.__main__ import shares
from tests.fuzz.engine import CORPUS, corpus, run_built_in
from tests.fuzz.mutator import MAX_INPUT_BYTES, Mutator
from tests.fuzz.samples import sample
from tests.fuzz.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
MAX_CORPUS_FILES = 200
names = pytest.mark.parametrize("name", TARGETS)
calls = pytest.mark.parametrize(("desk", "method"), CALLS)
bounded = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@names
def test_seeds_and_kept_inputs_do_no_harm(name: str) -> None:
    target = TARGETS[name]

    said = {target.run(data) for data in [*target.seeds(), *corpus(target)]}

    assert len(said) > 1  # of a target that always says the same, nothing is learnt


@names
def test_new_inputs_do_no_harm(name: str) -> None:
    target = TARGETS[name]
    inputs = max(20, int(3000 * target.share))

    run = run_built_in(target, inputs, seed=38)

    assert (run.trouble, run.inputs) == ("", inputs)


def test_what_the_inputs_of_the_desks_submit_is_taken() -> None:
    submit = list(CALLS).index(("jobs", "submit"))
    inputs = [*desks.seeds(), *corpus(TARGETS["desks"])]
    submits = set()
    for data in inputs:
        with contextlib.suppress(msgspec.MsgspecError):
            calls_of_it = msgspec.msgpack.decode(data, type=list[tuple[int, msgspec.Raw]])
            submits |= {bytes(said) for number, said in calls_of_it[:1] if number == submit}

    said = {desks.session(desks.encode([(submit, msgspec.Raw(each))])) for each in submits}

    assert submits
    assert said == {"jobs.submit answered bool"}


@names
@bounded
@given(data=st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@calls
@bounded
@given(chance=st.randoms(use_true_random=False))
def test_arguments_of_any_value_are_read_as_they_were_written(desk: str, method: str, chance: random.Random) -> None:
    said = sample(CALLS[desk, method].args, chance)

    frame = codec.encode_request("r", desk, method, said)

    read = codec.read_arguments(codec.open_request(memoryview(frame)))
    assert repr(read) == repr(said)  # by text: of a value that is no number, no copy is equal


@calls
@bounded
@given(chance=st.randoms(use_true_random=False))
def test_answers_of_any_value_are_read_as_they_were_written(desk: str, method: str, chance: random.Random) -> None:
    said = sample(CALLS[desk, method].answer, chance)

    frame = codec.encode_answer(Request("r", desk, method, msgspec.Raw(b"")), said)

    assert repr(codec.read_answer(codec.open_answer(memoryview(frame), "r"), desk, method)) == repr(said)


@pytest.mark.parametrize("kind", journal.KINDS)
@bounded
@given(chance=st.randoms(use_true_random=False))
def test_records_of_any_value_are_read_as_they_were_written(kind: type, chance: random.Random) -> None:
    said = [sample(kind, chance), sample(Admitted, chance)]

    assert repr(journal.decode(journal.encode(said))) == repr(said)


# --- the fuzzer itself ------------------------------------------------------------------------------------------------


def test_a_fault_that_only_a_changed_structure_reaches_is_found_and_handed_over() -> None:
    def blind(data: bytes) -> str:
        try:
            said = msgspec.msgpack.decode(data)
        except (msgspec.MsgspecError, UnicodeError):
            return "misread"
        if said == {"a": [1, None]}:
            raise KeyError("found")
        return type(said).__name__

    target = Target("blind", blind, lambda: [msgspec.msgpack.encode({"a": [1, 2]})])

    found = run_built_in(target, 100_000, seed=1)

    assert found.finding == msgspec.msgpack.encode({"a": [1, None]})
    assert "KeyError: 'found'" in found.trouble


def test_memory_that_grows_is_a_finding() -> None:
    kept: list[bytes] = []

    def hoard(data: bytes) -> str:
        kept.append(bytes([1]) * (256 * 1024))
        return "kept"

    found = run_built_in(Target("hoard", hoard, lambda: [b"x"]), 100_000, seed=1)

    kept.clear()
    assert "KiB more" in found.trouble
    assert found.inputs < 10_000


def test_the_same_seed_makes_the_same_inputs() -> None:
    pool = [b"\x92\x01\xa1a", b"\x81\xa1k\x91\x07"]

    def inputs(seed: int) -> list[bytes]:
        mutator = Mutator(random.Random(seed))
        return [mutator.mutate(pool[number % 2], pool) for number in range(500)]

    assert inputs(1) == inputs(1) != inputs(2)
    assert max(map(len, inputs(1))) <= MAX_INPUT_BYTES


def test_a_run_has_at_least_as_many_inputs_as_were_asked_for() -> None:
    given_out = shares(list(TARGETS.values()), 1000)

    assert sum(inputs for _, inputs in given_out) >= 1000
    assert min(inputs for _, inputs in given_out) >= 1


def test_the_command_runs_a_target_and_says_what_it_did() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "300", "--target", "request", "--engine", "built-in"]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].split()[:2] == ["all", "300"]


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]

    assert {path.parent.name for path in files} <= TARGETS.keys()
    assert len(files) <= MAX_CORPUS_FILES * len(TARGETS)
    assert max((path.stat().st_size for path in files), default=0) <= MAX_INPUT_BYTES
