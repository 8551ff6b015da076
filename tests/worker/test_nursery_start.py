from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.worker import nursery_start
from cluster.worker.nursery_start import Interpreter, start_interpreter
from tests.worker.recording_desk import wait_gone


def is_over(interpreter: Interpreter) -> bool:
    """Whether it has ended, and was waited for."""
    try:
        os.waitpid(interpreter.pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_it_ends_with_the_other_end_of_its_socket() -> None:
    interpreter = start_interpreter(tuple(sys.path), 1)

    interpreter.control.close()
    interpreter.wait_for_exit()

    assert is_over(interpreter)
    interpreter.discard()
    interpreter.discard()


def test_one_that_does_not_end_by_itself_is_killed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery_start, "MAX_EXIT_SECONDS", 0.01)
    interpreter = start_interpreter(tuple(sys.path), 1)
    os.kill(interpreter.pid, signal.SIGSTOP)

    interpreter.control.close()
    interpreter.wait_for_exit()

    assert is_over(interpreter)
    interpreter.discard()


def test_one_that_the_program_itself_has_waited_for_is_gone() -> None:
    interpreter = start_interpreter(tuple(sys.path), 1)
    os.kill(interpreter.pid, signal.SIGKILL)
    os.waitpid(interpreter.pid, 0)

    interpreter.wait_for_exit()
    interpreter.discard()

    assert wait_gone(interpreter.pid, 0.0)


def test_it_is_handed_its_socket_and_nothing_that_the_program_hands_to_others() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    interpreter = start_interpreter(tuple(sys.path), 1)
    try:
        open_there = sorted(int(path.name) for path in Path(f"/proc/{interpreter.pid}/fd").iterdir())
        os.close(writer)
        poll = select.poll()
        poll.register(reader, select.POLLHUP)

        assert open_there[:4] == [0, 1, 2, nursery_start.CONTROL]
        assert poll.poll(20_000)  # nobody else has the pipe's other end
    finally:
        interpreter.discard()
        os.close(reader)


def test_it_is_in_a_session_of_its_own() -> None:
    interpreter = start_interpreter(tuple(sys.path), 1)
    try:
        assert os.getsid(interpreter.pid) == interpreter.pid
    finally:
        interpreter.discard()


def test_a_program_that_is_short_of_standard_descriptors_starts_one_all_the_same() -> None:
    program = """
import os
for descriptor in (0, 1, 2):
    os.close(descriptor)
import cluster
with cluster.local(slots=1) as c:
    os._exit(c.submit(pow, (2, 5)).result())
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)

    assert done.returncode == 32


def test_a_system_that_has_no_such_program_is_an_error_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with pytest.raises(FileNotFoundError):
        _ = start_interpreter(tuple(sys.path), 1)

    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize("flags", [(), ("-O",), ("-W", "error"), ("-X", "dev"), ("-bb", "-E")])
def test_the_interpreter_s_own_flags_are_its_flags_too(flags: tuple[str, ...], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import subprocess\n"
        "from cluster.worker.nursery_start import _interpreter_flags\n"
        "print(_interpreter_flags() == subprocess._args_from_interpreter_flags(), _interpreter_flags() != [])\n"
    )

    said = subprocess.run(
        [sys.executable, *flags, str(program)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert said.split() == ["True", str(bool(flags))]


def test_it_is_started_before_anything_slow_is_loaded() -> None:
    slow = ("typing", "collections", "enum", "socket", "subprocess", "msgspec", "contextlib")
    program = f"import sys, cluster.embedded.local; print([name for name in {slow} if name in sys.modules])"

    # Without `site`, whose .pth files load what they like.
    said = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert said.strip() == "[]"
