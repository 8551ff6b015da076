"""What jobs try in order to get at the secrets of their cluster, and what a test finds in a process from outside.

The probes are made by functions, and so travel by value: another user may not be able to read the tests, nor the standard
library. So those for other users import only what each child has loaded.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

# Of setpriv(1): an ordinary user, who happens to own the files of root. What it may do to other processes is what any
# user may do to its own.
ORDINARY = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
_CHUNK = 16 << 20


def forms_of(secrets: Collection[bytes]) -> list[bytes]:
    """Each secret as it may be written: raw, hexadecimal, base64 at each of its alignments."""
    forms: list[bytes] = []
    for secret in secrets:
        forms += [secret, secret.hex().encode(), secret.hex().upper().encode()]
        for shift in range(3):
            # Without the ends, which depend on what stands beside it.
            text = base64.b64encode(bytes(shift) + secret)[4:-4]
            forms += [text, text.replace(b"+", b"-").replace(b"/", b"_")]
    return forms


def found_in(data: bytes, forms: Collection[bytes]) -> bool:
    return any(form in data for form in forms)


def holds_in_memory(pid: int, forms: Collection[bytes]) -> bool:
    """Whether a process has any of this in memory that it may read. Needs root."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, mode, *_ = line.split()
            start, end = (int(bound, 16) for bound in span.split("-"))
            if mode[0] != "r" or start >= 1 << 63:
                continue
            tail = b""
            for at in range(start, end, _CHUNK):
                with contextlib.suppress(OSError):  # not backed by anything
                    memory.seek(at)
                    data = tail + memory.read(min(_CHUNK, end - at))
                    if found_in(data, forms):
                        return True
                    tail = data[-256:]
    return False


def shown_by(pid: int, forms: Collection[bytes]) -> list[str]:
    """Where a process shows any of this: on its command line, in its environment, in files that it has open."""
    places = [Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ")]
    shown = [str(place) for place in places if found_in(place.read_bytes(), forms)]
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if descriptor.is_file() and found_in(descriptor.read_bytes(), forms):
                shown.append(str(descriptor.readlink()))
    return shown


def make_holder() -> Callable[[str], int]:
    """A job that says that it runs, and goes on until it is killed."""

    def hold(flag: str) -> int:
        import contextlib
        import time

        with contextlib.suppress(ImportError):  # a user may not be able to read the standard library
            import multiprocessing

            multiprocessing.current_process()  # as the curious do
        with open(flag, "w") as file:  # noqa: PTH123
            file.write(f"{os.getpid()} {os.getppid()}\n")
        while True:
            time.sleep(0.01)  # sleeps because it is to be looked at from outside

    return hold


def make_burglar() -> Callable[[list[int]], dict[str, list[str]]]:
    """A job that tries every way into these processes, and into one of its own; what it got open, by process."""

    def pry(pids: list[int]) -> dict[str, list[str]]:
        import ctypes
        import subprocess
        import sys

        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

        def ways(pid: int) -> list[str]:
            opened = []
            for name in ("mem", "environ", "maps", "auxv"):
                try:
                    with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - travels by value
                        if name in {"environ", "maps"} and not file.read(1):
                            continue
                    opened.append(name)
                except OSError:
                    pass
            try:
                os.readlink(f"/proc/{pid}/fd/2")  # noqa: PTH115 - their numbers alone are seen by who is called root
                opened.append("fd")
            except OSError:
                pass
            if libc.ptrace(16, pid, None, None) == 0:  # PTRACE_ATTACH
                os.waitpid(pid, 0)
                libc.ptrace(17, pid, None, None)  # PTRACE_DETACH
                opened.append("ptrace")
            pidfd = os.pidfd_open(pid)
            if libc.syscall(438, pidfd, 0, 0) >= 0:  # pidfd_getfd
                opened.append("pidfd_getfd")
            os.close(pidfd)
            return opened

        with subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"], stdin=-1, stdout=-1) as own:
            assert own.stdout is not None
            own.stdout.readline()
            found = {"own": ways(own.pid)}
            own.kill()
        parent = os.getppid()
        with open(f"/proc/{parent}/stat") as file:  # noqa: PTH123
            supervisor = int(file.read().rpartition(")")[2].split()[1])
        for name, pid in [("nursery", parent), ("supervisor", supervisor), *((str(pid), pid) for pid in pids)]:
            found[name] = ways(pid)
        return found

    return pry


def make_stranger() -> Callable[[list[int], str, str], dict[str, Any]]:
    """A job that tells who it is, and what it can do to these processes and with these files."""

    def tell(pids: list[int], secret: str, note: str) -> dict[str, Any]:
        import ctypes
        import signal

        def is_allowed(action: Any, *arguments: Any) -> bool:
            try:
                action(*arguments)
            except PermissionError:
                return False
            return True

        with open(note, "w") as file:  # noqa: PTH123 - in its folder
            file.write("mine")
        with open(os.path.abspath(note)) as file:  # noqa: PTH100, PTH123
            read = file.read()
        death = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(death), 0, 0, 0)  # PR_GET_PDEATHSIG
        with open("/proc/self/status") as file:  # noqa: PTH123
            status = dict(line.rstrip().split(":\t", 1) for line in file if ":\t" in line)
        return {
            "ids": (os.getresuid(), os.getresgid(), os.getgroups()),
            "names": [os.environ[name] for name in ("HOME", "USER", "LOGNAME")],
            "read": read,
            "owner": os.stat(".").st_uid,  # noqa: PTH116
            "folder": os.getcwd(),  # noqa: PTH109
            "death": death.value,
            "capabilities": [status[name] for name in ("CapPrm", "CapEff", "CapAmb")],
            "no_new_privileges": status["NoNewPrivs"],
            "sees itself": is_allowed(open, "/proc/self/environ"),
            "back": [is_allowed(os.setuid, 0), is_allowed(os.setgid, 0), is_allowed(os.setgroups, [0])],
            "kills": [is_allowed(os.kill, pid, signal.SIGCONT) for pid in (*pids, os.getppid())],
            "reads": is_allowed(open, secret),
        }

    return tell
