"""Tasks that a distrustful engineer would try. Light to import, for every child that runs one imports this module."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# --- tasks that end well, and leave their process in disorder ----------------------------------------------------------


def close_low_descriptors() -> None:
    os.closerange(0, 100)


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()


class Broken:
    def write(self, text: str) -> NoReturn:
        raise ValueError("no")

    flush = write


def replace_streams() -> None:
    sys.stdout = Broken()
    sys.stderr = None


def redirect_descriptors() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)


def change_directory() -> None:
    os.chdir("/")


def change_umask() -> None:
    os.umask(0o777)


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def leave_a_timer() -> None:
    """Without care each later job in this process gets a ZeroDivisionError."""
    signal.signal(signal.SIGALRM, lambda *_: 1 // 0)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)


def leave_its_group() -> None:
    with contextlib.suppress(OSError):
        os.setsid()


def leave_a_thread() -> None:
    threading.Thread(target=lambda: threading.Event().wait(600)).start()


def leave_a_child() -> None:
    if os.fork() == 0:
        signal.pause()


def leave_a_daemon() -> None:
    subprocess.Popen(["setsid", "sleep", "600"])


def fork_and_return_twice() -> int:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return 1


def leave_an_exit_handler() -> None:
    atexit.register(os._exit, 9)


def read_input() -> str:
    return sys.stdin.read()


def use_multiprocessing() -> list[int]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


DISORDER: dict[str, Callable[[], Any]] = {
    task.__name__: task
    for task in (
        close_low_descriptors, close_streams, replace_streams, redirect_descriptors, change_directory, change_umask,
        ignore_signals, leave_a_timer, leave_its_group, leave_a_thread, leave_a_child,
        leave_a_daemon, fork_and_return_twice, leave_an_exit_handler, read_input,
        use_multiprocessing,
    )
}  # fmt: skip


# --- what the next job in that process sees ----------------------------------------------------------------------------


def look_around() -> dict[str, Any]:
    print("out")
    print("err", file=sys.stderr)
    os.write(1, b"fd\n")
    mask = os.umask(0)
    os.umask(mask)
    end = time.monotonic() + 0.03
    while time.monotonic() < end:  # long enough for a timer that was left running
        pass
    status = subprocess.run(["sh", "-c", "exit 3"], check=False).returncode
    return {"directory": str(Path.cwd()), "umask": mask, "status": status}


# --- tasks that end themselves, or try to end others ---------------------------------------------------------------------


def close_all_descriptors() -> None:
    os.closerange(0, 1024)


def write_everywhere() -> None:
    for descriptor in range(3, 400):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"garbage")


def kill_own_group() -> None:
    os.killpg(os.getpgid(0), signal.SIGTERM)
    signal.pause()


def become_another_program() -> None:
    os.execv("/bin/true", ["true"])


def kill_parent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def eat_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    pieces = []
    while True:
        pieces.append(bytearray(50 << 20))


def recurse(n: int = 0) -> int:
    return recurse(n + 1)


def nest() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_interpreter() -> None:
    """In C code that never lets go of the interpreter's lock."""
    ctypes.PyDLL(None).sleep(600)


def hold_and_tell(path: str) -> None:
    Path(path).touch()
    hold_the_interpreter()


def ignore_and_last(path: str) -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    Path(path).touch()
    while True:
        signal.pause()


def raise_surrogate() -> NoReturn:
    raise ValueError("half a pair: \ud800")


def return_surrogate() -> str:
    print("half a pair: \ud800")
    return "\ud800"


def raise_group() -> NoReturn:
    raise ExceptionGroup("both", [ValueError("one"), TypeError("two")])


def raise_in_a_circle() -> NoReturn:
    error = ValueError("its own cause")
    error.__cause__ = error
    raise error


def raise_thirty_megabytes() -> NoReturn:
    raise ValueError("x" * (30 << 20))


def say_half_a_pair() -> None:
    import cluster

    cluster.current_job().progress(1, 2, "half a pair: \ud800")
