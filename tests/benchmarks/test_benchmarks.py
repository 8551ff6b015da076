"""The benchmarks as a whole: a quick run, and how its parts fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fresh import PROJECT, RunFailed, run_python
from benchmarks.measuring import Request, check
from benchmarks.plan import CONTENDERS, FIGURES, OURS, PEERS, QUICK, Contender, Side, Workload, contenders_of
from benchmarks.report import figure_rows, goal_rows, markdown
from benchmarks.rounds import Record, Sample, rotated


def test_a_quick_run_yields_every_figure_of_every_side_and_judges_every_goal(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--markdown", "--json", str(file)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    told = json.loads(file.read_text(encoding="utf-8"))
    assert (done.returncode, told["failures"]) == (0, [])
    found = {(standing["figure"], standing["side"]) for standing in told["standings"]}
    assert found == {
        (f"{figure.workload}: {figure.name}", side)
        for figure in FIGURES
        for side in ((Side.IMPORT,) if figure.name == "import over bare" else (*OURS, *PEERS))
        if not (figure.workload is Workload.COLD and side is Side.TCP)
    }
    assert len(told["goals"]) == sum(len(figure.goals) for figure in FIGURES)
    assert told["machine"]["python"]
    assert "| throughput: jobs, jobs/s |" in done.stdout


def test_a_workload_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"], cwd=PROJECT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "speed" in done.stderr


def test_a_request_survives_its_way_as_json() -> None:
    request = Request(Contender(Side.EXECUTOR, "fork"), Workload.MAP, QUICK)

    assert Request.from_json(request.to_json()) == request


def test_each_contender_leads_once() -> None:
    contenders = contenders_of(Workload.COLD)

    leaders = [rotated(contenders, number)[0] for number in range(len(contenders))]

    assert leaders == list(contenders)
    assert set(leaders) == {one for one in CONTENDERS if one.side is not Side.TCP}


def test_a_side_that_loses_a_job_is_found_out() -> None:
    with pytest.raises(AssertionError, match="3 jobs were asked for; 2 results came"):
        check([0, 2], 3)


def test_a_failed_interpreter_is_told_by_its_last_words() -> None:
    with pytest.raises(RunFailed, match="exit status 1: ZeroDivisionError"):
        run_python("-c", "1 / 0")


def test_an_interpreter_that_hangs_is_killed_with_its_children() -> None:
    endless = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import signal; signal.pause()'])"

    with pytest.raises(RunFailed, match="no end in"):
        run_python("-c", endless, timeout_seconds=0.5)


def test_tables_name_what_was_missed_and_what_failed() -> None:
    def sample(side: Side, jobs: float) -> Sample:
        from benchmarks.measuring import Reading

        return Sample(0, Workload.THROUGHPUT, Contender(side), Reading("jobs", jobs))

    record = Record(
        samples=[sample(Side.MEMORY, 20_000.0), sample(Side.EXECUTOR, 10_000.0)],
        failures=["map, cluster, memory: exit status 1: it said nothing"],
        loads=[(0.5, 0.5, 0.5)],
    )

    text = markdown(record)

    assert figure_rows(record)[0] == (
        "throughput: jobs, jobs/s",
        "cluster, memory",
        "20,000",
        "20,000 - 20,000",
        "2",
        "",
    )
    assert goal_rows(record)[0][-1] == "MISSED"
    assert "MISSED" in text
    assert "FAILED map, cluster, memory" in text
