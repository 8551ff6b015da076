"""The `cluster` command itself: version, mistakes, exit statuses."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from cluster.cli import find, main
from cluster.errors import MasterUnavailable
from tests.cli.rig import Call


def run_cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli.main", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_version_is_one_line() -> None:
    done = run_cluster("--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cluster ")
    assert done.stdout.count("\n") == 1


def test_version_needs_neither_rich_nor_the_demo() -> None:
    code = (
        "import sys, cluster.cli.main; print(sorted({'rich.live', 'cluster.cli.demo', 'sqlite3'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def test_an_unknown_command_is_a_mistake_of_the_caller() -> None:
    done = run_cluster("dmeo")

    assert done.returncode == 2
    assert "dmeo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("options", "store"), [((), "demo.db"), (("--embedded",), "first.db")])
def test_a_folder_with_the_state_of_an_earlier_demo_is_refused_and_left_as_it_is(
    tmp_path: Path, options: tuple[str, ...], store: str
) -> None:
    (tmp_path / store).write_text("precious")

    done = run_cluster("demo", *options, "--state", str(tmp_path))

    assert done.returncode == 2
    assert "name another folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(store, "precious")]


def test_the_package_is_the_command_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "--version"], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.startswith("cluster ")


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_cluster("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Of the processor's time, the best of some. A quiet machine needs 0.2 s; where others share its caches, twice that.
    assert min(seconds() for _ in range(3)) < 0.5


def test_help_loads_neither_configuration_nor_transport() -> None:
    code = "import sys, cluster.cli.main; print(sorted({'yaml', 'pydantic', 'multiprocessing.managers'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_complete_commands_and_states(shell: str) -> None:
    words = {
        "bash": ("cluster job list --state qu", "4"),
        "zsh": ("cluster job list --state qu", ""),
        "fish": ("cluster job list --state qu", ""),
    }
    line, position = words[shell]
    environment = {
        **os.environ,
        "_CLUSTER_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": position,
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }

    done = subprocess.run(
        [sys.executable, "-m", "cluster"], capture_output=True, text=True, timeout=60, check=False, env=environment
    )

    assert "queued" in done.stdout


def test_a_master_that_is_not_there_is_a_mistake_with_a_hint(call_alone: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(where: find.Where) -> NoReturn:
        raise MasterUnavailable("nobody answers")

    monkeypatch.setattr(find, "find_cluster", unreachable)

    told = call_alone("job", "list")

    assert told.status == 2
    assert (
        told.err
        == "cluster: nobody answers\nhint: `cluster status FILE` shows whether it runs, `cluster up FILE` starts it\n"
    )


def test_a_defect_of_the_kit_is_told_as_one(call_alone: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(where: find.Where) -> NoReturn:
        raise ZeroDivisionError("oops \x1b[2J")

    monkeypatch.setattr(find, "find_cluster", broken)

    told = call_alone("job", "list")
    monkeypatch.setenv("CLUSTER_TRACEBACK", "1")
    told_more = call_alone("job", "list")

    assert (told.status, told_more.status) == (70, 70)
    assert r"this is a defect of the kit: ZeroDivisionError: oops \x1b[2J" in told.err
    assert "Traceback" not in told.err
    assert told_more.err.startswith("Traceback (most recent call last):\n")
    assert r"this is a defect of the kit: ZeroDivisionError: oops \x1b[2J" in told_more.err
    assert all(line.isprintable() for line in told_more.err.splitlines())


def test_ctrl_c_before_a_command_has_begun_shows_no_traceback(
    call_alone: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupted)

    told = call_alone("job", "list")

    assert (told.status, told.out, told.err) == (130, "", "cluster: interrupted\n")


def test_a_reader_that_goes_away_is_no_defect() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cluster", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)

    assert "Traceback" not in err
    assert "defect" not in err
