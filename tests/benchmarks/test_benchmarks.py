"""The benchmarks as a whole: a quick run, and how its parts fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.fresh import PROJECT, RunFailed, run_python
from benchmarks.measuring import Request, check
from benchmarks.peers.environments import Unavailable, require_hq
from benchmarks.plan import (
    FIGURES,
    LONG,
    QUICK,
    Contender,
    Side,
    Size,
    Workload,
    contenders_of,
    count_of,
    sized,
)
from benchmarks.report import figure_rows, goal_rows, markdown
from benchmarks.rounds import Record, Sample, rotated, run_rounds


# In three runs, each of which ends well in time on a busy machine too.
@pytest.mark.parametrize(
    "workloads",
    [
        (Workload.THROUGHPUT,),
        (Workload.LATENCY, Workload.MAP),
        (Workload.COLD, Workload.LIMITS, Workload.IDLE, Workload.DEATH),
    ],
    ids="-".join,
)
def test_a_quick_run_yields_every_figure_of_every_side_and_lists_every_goal(
    workloads: tuple[Workload, ...], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--markdown", "--json", str(file), *workloads],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    told = json.loads(file.read_text(encoding="utf-8"))
    assert (done.returncode, told["failures"]) == (0, []), done.stderr
    found = {(standing["figure"], standing["side"]) for standing in told["standings"]}
    assert found == {
        (f"{figure.workload}: {figure.name}", contender.side)
        for figure in FIGURES
        if figure.workload in workloads
        for contender in contenders_of(figure.workload)
        if (contender.side is Side.IMPORT) == (figure.name == "import over bare")
    }
    unmeasured = {goal["goal"] for goal in told["goals"] if goal["verdict"] == "not measured"}
    # What was not asked for is not left out in silence; nor is what needs a peer that was not there.
    assert len(told["goals"]) == sum(len(figure.goals) for figure in FIGURES)
    assert unmeasured >= {
        f"{figure.workload}: {figure.name}" for figure in FIGURES if figure.goals and figure.workload not in workloads
    }
    assert unmeasured.isdisjoint(
        f"{figure.workload}: {figure.name}"
        for figure in FIGURES
        if figure.workload in workloads and figure.workload is not Workload.THROUGHPUT
    )
    assert told["machine"]["python"]
    assert told["versions"]["joblib"]
    assert "| figure | side | n |" in done.stdout


def test_a_quick_run_of_what_takes_long_yields_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", str(file), *LONG],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    told = json.loads(file.read_text(encoding="utf-8"))
    assert (done.returncode, told["failures"]) == (0, []), done.stderr
    values = {standing["figure"]: standing["median"] for standing in told["standings"]}
    assert values.keys() == {f"{figure.workload}: {figure.name}" for figure in FIGURES if figure.workload in LONG}
    assert all(value > 0 for name, value in values.items() if name != "connected: heartbeats too late")


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
    assert {one.side for one in leaders}.isdisjoint({Side.TCP, Side.TLS})


def test_a_slow_peer_is_asked_for_less_and_its_row_says_so() -> None:
    size = Size(throughput_jobs=10_000)

    assert sized(size, Side.CELERY).throughput_jobs == 1_000
    assert count_of(Workload.THROUGHPUT, size, Side.CELERY) == 1_000
    assert count_of(Workload.THROUGHPUT, size, Side.EXECUTOR) == 10_000


def test_a_peer_that_can_not_be_had_is_named_in_the_report() -> None:
    record = run_rounds([], QUICK, 1, lambda _: None, {Side.HYPERQUEUE: Unavailable("it has no hq program")})

    assert "Not measured: HyperQueue: it has no hq program." in markdown(record)


def test_hyperqueue_without_its_program_is_unavailable(tmp_path: Path) -> None:
    # An environment that has the package's version to tell, and no hq.
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 0.27.0\n", encoding="utf-8")
    python.chmod(0o755)

    with pytest.raises(Unavailable, match=r"hyperqueue 0\.27\.0 .* no hq"):
        require_hq(tmp_path, str(python))


def test_an_unknown_peer_is_refused_with_those_there_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--peers", "dask,slurm"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "'slurm'" in done.stderr
    assert "dask, ray, celery, hyperqueue" in done.stderr


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


def test_a_process_that_left_the_group_is_found_by_its_mark_and_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    leaving = (
        "import subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], start_new_session=True,"
        "                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))"
    )

    run_python("-c", leaving)

    wait_gone(int(pid_file.read_text(encoding="ascii")))


def wait_gone(pid: int) -> None:
    """Whoever it belongs to now has still to take note of its end."""
    try:
        psutil.Process(pid).wait(10.0)
    except psutil.NoSuchProcess:
        return


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
        "10,000",
        "20,000",
        "20,000 - 20,000",
        "2",
        "",
    )
    assert goal_rows(record)[0][-1] == "MISSED"
    assert "MISSED" in text
    assert "FAILED map, cluster, memory" in text
