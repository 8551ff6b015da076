"""Tasks of the acceptance tests. Light to import, for every child that runs one imports this module."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import cluster

# --- ways to end a process, or to fail to ------------------------------------------------------------------------------


def leave() -> NoReturn:
    sys.exit("left by sys.exit")


def vanish(status: int = 0) -> NoReturn:
    os._exit(status)


def abort() -> NoReturn:
    os.abort()


def segfault() -> None:
    ctypes.string_at(0)


def kill_itself(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def fail(text: str = "as it should") -> NoReturn:
    raise RuntimeError(text)


WAYS: dict[str, Callable[[], object]] = {
    "exit": leave,
    "C exit": lambda: vanish(42),
    "error": fail,
    "segfault": segfault,
}


class AtPickle:
    """Ends in one of the ways when it is pickled."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> tuple[Any, ...]:
        WAYS[self.way]()
        return int, ()


class AtUnpickle:
    """Ends in one of the ways when it is unpickled."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> tuple[Any, ...]:
        return end_in, (self.way,)


class AtCollect:
    """Ends in one of the ways when the process that made it drops it; pickles as a number."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (7,)

    def __del__(self) -> None:
        WAYS[self.way]()


def end_in(way: str) -> None:
    WAYS[way]()


def give(kind: Callable[..., Any], *args: Any) -> Any:
    """What a class makes of the arguments, made here in the child."""
    return kind(*args)


def ignore(*args: Any) -> None:
    """Take anything."""


# --- results and exceptions that can't travel --------------------------------------------------------------------------


def give_lock() -> object:
    return threading.Lock()


def give_generator() -> object:
    return (n for n in range(3))


class WithLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class WithTwo(Exception):
    """Has two required arguments and tells pickle of one."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")
        self.what = what


class Rude(Exception):
    """Ends whoever unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return end_in, ("exit",)


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def fail_with(kind: Callable[..., BaseException], *args: str) -> NoReturn:
    raise kind(*args)


# --- tasks that last, tell and count -----------------------------------------------------------------------------------


def last(seconds: float) -> float:
    time.sleep(seconds)  # sleeps because a job must last
    return seconds


def last_for_ever() -> None:
    while True:
        time.sleep(3600)  # sleeps because a job must last until it is killed


def spin(seconds: float) -> int:
    """Use the processor, not the clock alone."""
    n = 0
    end = time.process_time() + seconds
    while time.process_time() < end:
        n += 1
    return n


def note(path: str, text: str) -> str:
    """Add a line to a file, in one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)
    return text


def note_and_fail(path: str, text: str) -> NoReturn:
    note(path, text)
    raise RuntimeError(text)


def note_and_last(path: str, text: str) -> None:
    note(path, text)
    last_for_ever()


def start_family(path: str) -> None:
    """Start a child, a daemon in a session of its own and a stubborn one; note their pids; wait with them."""
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen(["sleep", "600"])
    stubborn = subprocess.Popen([sys.executable, "-c", ignoring])
    daemon = subprocess.run(
        ["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    note(path, f"{os.getpid()} {child.pid} {stubborn.pid} {daemon.stdout.strip()}")
    last_for_ever()


def daemonise_and_go_on(path: str, seconds: float) -> None:
    """Leave a daemon that knows nobody and notes its pid, as the first thing; then go on for a moment."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note(path, str(os.getpid()))
            os.closerange(0, 100)
            signal.pause()
        os._exit(0)
    last(seconds)


def fill(megabytes: int) -> NoReturn:
    """Hold so much memory, say a few lines, use 0.2 s of processor, and fail."""
    memory = bytearray(megabytes << 20)
    for place in range(0, len(memory), 4096):
        memory[place] = 1
    for line in range(30):
        print("line", line)
    spin(0.2)
    raise RuntimeError("too full")


def about_me() -> dict[str, Any]:
    job = cluster.current_job()
    job.progress(3, 4, "nearly")
    return {
        "id": job.id,
        "run": job.run,
        "attempt": job.attempt,
        "fence": job.fence,
        "deadline": job.deadline,
        "pid": os.getpid(),
    }


def fail_before(attempt: int) -> int:
    """Fail until the given attempt."""
    now = cluster.current_job().attempt
    if now < attempt:
        raise RuntimeError(f"attempt {now}")
    return now


def crash_before(attempt: int) -> int:
    now = cluster.current_job().attempt
    if now < attempt:
        os.kill(os.getpid(), signal.SIGKILL)
    return now


def add(*numbers: int) -> int:
    return sum(numbers)


def poisoned(n: int, way: str) -> int:
    if way:
        end_in(way)
    return n


def note_and_die(path: str, text: str) -> NoReturn:
    note(path, text)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


def print_and_die() -> NoReturn:
    spin(0.2)
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


def say_in_every_way() -> None:
    print("from print")
    print("from stderr", file=sys.stderr)
    os.write(1, b"from descriptor 1\n")
    ctypes.CDLL(None).puts(b"from C")
    subprocess.run(["echo", "from a subprocess"], check=True)
    logging.getLogger().warning("from logging")


def say_and_fail_before(attempt: int) -> int:
    print("attempt", cluster.current_job().attempt)
    return fail_before(attempt)


def flood(megabytes: int) -> int:
    print("the beginning")
    line = "x" * 1023 + "\n"
    count = megabytes << 10
    for _ in range(count):
        sys.stdout.write(line)
    print("the end")
    return count << 10
