"""A command as a task: what ends it how."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cluster.worker.command import TASK, CommandFailed, run_command


def test_the_task_s_name_leads_to_it() -> None:
    module, _, name = TASK.partition(":")

    assert (module, name) == (run_command.__module__, run_command.__name__)


def test_a_command_that_ends_well_returns_nothing_and_prints_what_it_prints(capfd: pytest.CaptureFixture[str]) -> None:
    run_command(["sh", "-c", "echo out; echo err >&2"])

    assert tuple(capfd.readouterr()) == ("out\n", "err\n")


def test_a_command_runs_in_the_directory_it_is_given(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run_command(["pwd"], str(tmp_path))

    assert capfd.readouterr().out == f"{tmp_path.resolve()}\n"


@pytest.mark.parametrize(
    ("argv", "directory", "status", "text"),
    [
        (["sh", "-c", "exit 3"], None, 3, "sh ended with exit status 3"),
        (["sh", "-c", "kill -9 $$"], None, 137, "sh was killed by SIGKILL"),
        (["no-such-command"], None, 127, "no-such-command can't be started: No such file or directory"),
        (["/"], None, 126, "/ can't be started: Permission denied"),
        (["pwd"], "/no/such/folder", 127, "pwd can't be started: /no/such/folder: No such file or directory"),
    ],
)
def test_what_fails_tells_the_status_that_a_shell_would(
    argv: list[str], directory: str | None, status: int, text: str
) -> None:
    with pytest.raises(CommandFailed) as told:
        run_command(argv, directory)

    assert told.value.exit_status == status
    assert str(told.value) == text


def test_the_failure_survives_pickling() -> None:
    failure = CommandFailed("sh", 3, "ended with exit status 3")

    copy = pickle.loads(pickle.dumps(failure))

    assert (copy.args, str(copy)) == (failure.args, str(failure))
