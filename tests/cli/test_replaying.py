"""`cluster job replay`: the job's real arguments, here, under a real pdb that is fed from standard input."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import sys
from pathlib import Path

import pytest
from msgspec import structs

import cluster
from cluster.cli import replaying
from cluster.wire import dependency
from tests.cli import jobs_to_run
from tests.cli.rig import Call


def divide(whole: int, part: int) -> float:
    share = whole / part
    return round(share, 3)


def note(folder: str) -> tuple[str, int, int]:
    job = cluster.current_job()
    (Path(folder) / "ran").write_text("yes")
    return job.id, job.run, job.fence


def leave() -> None:
    sys.exit(7)


async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value + 1


def add(left: int, right: int) -> int:
    return left + right


def failed(job: cluster.Job[object]) -> cluster.Job[object]:
    concurrent.futures.wait([job], 30)
    return job


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the person types."""
    keys = io.StringIO()
    monkeypatch.setattr(sys, "stdin", keys)
    return keys


def type_in(keys: io.StringIO, *lines: str) -> None:
    keys.write("".join(f"{line}\n" for line in lines))
    keys.seek(0)


def test_pdb_stands_at_the_exception_with_the_real_arguments(
    c: cluster.Cluster, call: Call, typed: io.StringIO
) -> None:
    job = failed(c.submit(divide, (17, 0)))
    type_in(typed, "p 'whole is', whole", "where", "q")

    told = call("job", "replay", job.id)

    assert told.status == 1
    assert "('whole is', 17)" in told.out
    assert "share = whole / part" in told.out
    assert "cli/replaying.py" not in (told.out + told.err).replace("tests/cli", ""), "it begins with the job's own code"
    assert "ZeroDivisionError" in told.err
    assert "nothing was committed" in told.err


def test_break_stops_at_the_first_line_and_can_go_on(c: cluster.Cluster, call: Call, typed: io.StringIO) -> None:
    job = c.submit(divide, (18, 2))
    assert job.result(30) == 9.0
    type_in(typed, "p 'part is', part", "p 'share' in dir()", "c")

    told = call("job", "replay", "--break", job.id)

    assert told.status == 0
    assert "('part is', 2)" in told.out
    assert "False" in told.out, "the first line has not run"
    assert told.out.endswith("9.0\n")


def test_leaving_the_debugger_at_the_first_line_runs_nothing(
    c: cluster.Cluster, call: Call, typed: io.StringIO, tmp_path: Path
) -> None:
    job = c.submit(note, (str(tmp_path),))
    job.result(30)
    (tmp_path / "ran").unlink()
    type_in(typed, "q")

    told = call("job", "replay", "--break", job.id)

    assert (told.status, (tmp_path / "ran").exists()) == (1, False)
    assert "left the debugger" in told.err


def test_nothing_is_committed(c: cluster.Cluster, call: Call) -> None:
    job = failed(c.submit(jobs_to_run.fail, ("no such luck",)))
    before = (c.stats(), job.history(), job.refresh().state)

    told = call("job", "replay", "--no-pdb", job.id)

    assert (told.status, told.out) == (1, "")
    assert "ValueError: no such luck" in told.err
    assert (c.stats(), job.history(), job.refresh().state) == before


def test_the_function_knows_its_job_and_has_no_fence(c: cluster.Cluster, call: Call, tmp_path: Path) -> None:
    job = c.submit(note, (str(tmp_path),))
    job.result(30)

    told = call("job", "replay", "--no-pdb", job.id)

    assert told.out == f"({job.id!r}, 1, 0)\n"
    assert (cluster.current_job().id, dependency.inside_job, dependency.current) == ("", False, {})


def test_results_of_other_jobs_are_among_the_arguments(c: cluster.Cluster, call: Call) -> None:
    first = c.submit(add, (1, 2))
    job = c.submit(add, (first, 10))
    assert job.result(30) == 13

    assert call("job", "replay", "--no-pdb", job.id).out == "13\n"


def test_an_argument_that_is_not_there_is_named(c: cluster.Cluster, call: Call) -> None:
    first = failed(c.submit(divide, (1, 0)))
    job = failed(c.submit(add, (first, 10)))

    told = call("job", "replay", "--no-pdb", job.id)

    assert told.status == 2
    assert f"the result of job {first.id} is an argument of job {job.id}, and is not there" in told.err


def test_of_a_chunk_the_item_that_failed_is_replayed_or_the_one_that_is_named(c: cluster.Cluster, call: Call) -> None:
    batch = c.map(divide, (6, 7, 8), (3, 0, 2), chunksize=3, errors="return")
    list(batch)
    (chunk,) = batch.jobs()

    by_itself = call("job", "replay", "--no-pdb", chunk.id)
    named = call("job", "replay", "--no-pdb", "--item", "2", chunk.id)
    beyond = call("job", "replay", "--no-pdb", "--item", "3", chunk.id)

    assert "item 1" in by_itself.err
    assert "ZeroDivisionError" in by_itself.err
    assert (named.status, named.out) == (0, "4.0\n")
    assert (beyond.status, "write --item N, from 0 to 2" in beyond.err) == (2, True)


def test_of_a_chunk_that_did_not_fail_the_item_must_be_named(c: cluster.Cluster, call: Call) -> None:
    batch = c.map(lambda each: [each], ([1], [2]), chunksize=2)
    assert list(batch) == [[[1]], [[2]]]
    (chunk,) = batch.jobs()

    unnamed = call("job", "replay", "--no-pdb", chunk.id)
    named = call("job", "replay", "--no-pdb", "--item", "0", chunk.id)

    assert (unnamed.status, "a chunk of 2 items" in unnamed.err) == (2, True)
    assert named.out == "[[1]]\n"


def test_functions_of_every_kind_are_run(c: cluster.Cluster, call: Call) -> None:
    three = 3
    jobs = [c.submit(later, (1,)), c.submit(lambda: three), c.submit("operator:add", (1, 4))]
    for job in jobs:
        job.result(30)

    assert [call("job", "replay", "--no-pdb", job.id).out for job in jobs] == ["2\n", "3\n", "5\n"]


def test_a_job_that_leaves_the_interpreter_does_not_take_the_command_along(c: cluster.Cluster, call: Call) -> None:
    job = failed(c.submit(leave))

    told = call("job", "replay", "--no-pdb", job.id)

    assert told.status == 1
    assert "it raised SystemExit" in told.err


def test_a_long_result_is_cut(c: cluster.Cluster, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "MAX_SHOWN_CHARACTERS", 5)
    job = c.submit("operator:mul", ("ab", 10))
    job.result(30)

    assert call("job", "replay", "--no-pdb", job.id).out == "'abab...\n"


def test_what_another_python_pickled_is_not_unpickled(
    c: cluster.Cluster, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = c.submit(divide, (1, 1))
    job.result(30)
    fetch = replaying.fetch

    def pickled_elsewhere(*asked: object) -> object:
        info, parts, inputs = fetch(*asked)  # type: ignore[arg-type]
        blob = structs.replace(parts.function, python="2.7", body=b"not a pickle")
        return info, structs.replace(parts, function=blob), inputs

    monkeypatch.setattr(replaying, "fetch", pickled_elsewhere)

    told = call("job", "replay", "--no-pdb", job.id)

    assert told.status == 2
    assert "it was pickled by Python 2.7, and this worker runs Python" in told.err


def test_break_and_no_pdb_exclude_each_other(call: Call) -> None:
    told = call("job", "replay", "--break", "--no-pdb", "x-1")

    assert (told.status, "exclude each other" in told.err) == (2, True)


def test_a_module_of_the_current_folder_is_found(
    c: cluster.Cluster, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def answer():\n    return 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    job = failed(c.submit("only_here:answer"))
    before = list(sys.path)

    told = call("job", "replay", "--no-pdb", job.id)

    assert (told.out, sys.path) == ("42\n", before)
    assert job.exception(0) is not None, "the worker has no such module"
