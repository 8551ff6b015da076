"""What separates a child from its nursery: session, signals, descriptors, standard streams.

Every step is taken in the child, right after the fork, by the only thread there is. Linux's own words for "my orphans
come to me" (subreaper) and "kill me when my parent dies" are prctl calls, which Python reaches through ctypes.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the raw half of `signal`, of which typeshed knows nothing
import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
from os import lseek
from typing import NoReturn, TextIO

from msgspec import Struct

from cluster.wire.hiding import hide_memory
from cluster.worker.identity import Identity, become
from cluster.worker.limits import Limits, apply_limits

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IONBF = 2  # C's "unbuffered"
_NOWHERE = (1 << 40) + 1  # a position that no other open file has by chance

# The child's own descriptors sit above those that jobs usually meet, so that a job that closes "everything up to 20"
# closes nothing of ours.
LOWEST_OWN_DESCRIPTOR = 200
_OWN_DESCRIPTORS = 3
# Above the usual score of a program, so that the kernel takes a job before it takes the master.
OOM_SCORE = 300

_CHLD, _ALRM, _TERM, _INT = map(int, (signal.SIGCHLD, signal.SIGALRM, signal.SIGTERM, signal.SIGINT))
_IGNORED = int(signal.SIG_IGN)

_libc = ctypes.CDLL(None, use_errno=True)


class Descriptors(Struct, frozen=True, gc=False):
    """What a child keeps open besides 0, 1 and 2."""

    socket: int
    output: int
    directory: int


class Terms(Struct, frozen=True):
    """What a child is held to."""

    nursery: int  # whose death is its own
    identity: Identity | None = None
    limits: Limits = ()
    group: bytes = b""  # folder of its cgroup; empty: the nursery's


def become_subreaper() -> None:
    """Let the orphans among this process's descendants come to it, and not to init."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def separate(socket: int, output: int, terms: Terms) -> Descriptors:
    """Make the forked copy of the nursery a child of its own. Ends the process if the nursery has died already."""
    if terms.group:
        _join(terms.group)  # as long as it may
    os.setsid()
    become_subreaper()
    hide_memory(is_hidden=False)  # the nursery's, and nothing for the child to hide
    _reset_signals()
    apply_limits(terms.limits)
    kept = _keep_only(socket, output)
    _redirect(kept.output)
    _raise_oom_score()
    _renew_authkey()
    if terms.identity is not None:
        become(terms.identity)
    # Last, for a process that changes its user loses it.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != terms.nursery:  # it died before the line above, which then came too late
        vanish()
    return kept


def renew_directory(descriptor: int, path: str) -> None:
    """Have a kept descriptor mean another directory from now on."""
    opened = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.dup2(opened, descriptor, inheritable=False)
    os.close(opened)


def restore_signals() -> None:
    """Undo what a job did to signals and would hit the next one: a timer's handler, children that are reaped by nobody."""
    # The raw function: `signal.getsignal` makes an enum of each answer, and this is asked after every job.
    handler_of = _signal.getsignal
    # 0 is SIG_DFL.
    if handler_of(_CHLD) == handler_of(_ALRM) == handler_of(_TERM) == 0 and handler_of(_INT) == _IGNORED:
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    _reset_signals()


def vanish() -> NoReturn:
    """End this process without a trace: no exit handlers, no flushed copies of another process's buffers."""
    os._exit(0)


def open_streams() -> tuple[TextIO, TextIO]:
    """New `sys.stdout` and `sys.stderr` on descriptors 1 and 2."""
    sys.stdout, sys.stderr = _open_stream(1), _open_stream(2)
    return sys.stdout, sys.stderr


def is_output_untouched(output: int) -> bool:
    """Whether nothing is in the output file, and 1 and 2 are still that file. Raises `OSError` if one is closed.

    Duplicates of a descriptor share its position, which is set so far behind the end that no other file has it by chance;
    counted from the end, it tells too whether the file is empty. (Where it stood before tells less: `pwrite` moves it not.)
    """
    return lseek(output, _NOWHERE, 2) == _NOWHERE == lseek(1, 0, 1) == lseek(2, 0, 1)  # 2: SEEK_END, 1: SEEK_CUR


def is_standard_output(output: int) -> bool:
    """Whether 1 and 2 are still what they were made, neither redirected nor closed (an `OSError`)."""
    # Duplicates of a descriptor share its position, which means nothing where all writing appends.
    mark = os.lseek(output, _NOWHERE, os.SEEK_SET)
    return os.lseek(1, 0, os.SEEK_CUR) == mark and os.lseek(2, 0, os.SEEK_CUR) == mark


def restore_standard_descriptors(output: int) -> None:
    """Put 0, 1 and 2 back after a job closed or redirected them."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null > 2:  # noqa: PLR2004 - a standard descriptor
        os.close(null)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _open_stream(descriptor: int) -> TextIO:
    # `closefd=False`: dropping the stream must not close the descriptor under the next one.
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C at the terminal is the user's word to the supervisor, who alone decides what becomes of jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _keep_only(socket: int, output: int) -> Descriptors:
    import fcntl
    import resource

    # Under a low limit (`ulimit -n`) as high as it goes.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_own = LOWEST_OWN_DESCRIPTOR if limit < 0 else min(LOWEST_OWN_DESCRIPTOR, limit - _OWN_DESCRIPTORS)

    def lift(descriptor: int) -> int:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest_own)

    kept = Descriptors(lift(socket), lift(output), lift(os.open(".", os.O_PATH | os.O_DIRECTORY)))
    lowest = 3
    for own in sorted((kept.socket, kept.output, kept.directory)):
        os.closerange(lowest, own)
        lowest = own + 1
    os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))
    return kept


def _redirect(output: int) -> None:
    restore_standard_descriptors(output)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the process's life
    open_streams()
    # Output of C code must be in the file before a crash, and before the job's end.
    for name in ("stdout", "stderr"):
        with contextlib.suppress(ValueError):
            _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, name), None, _IONBF, 0)
    # A crash in C prints the Python stack into the job's output, and so into its death certificate.
    faulthandler.enable(2)


def _join(group: bytes) -> None:
    """Move this process into a cgroup. Raises `OSError`; then no job may run here, for nothing would bound it."""
    descriptor = os.open(group + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"0")  # whoever writes
    finally:
        os.close(descriptor)


def _raise_oom_score() -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:  # noqa: PTH123
        if int(file.read()) < OOM_SCORE:
            file.write(str(OOM_SCORE))


def _renew_authkey() -> None:
    # Only if something imported it in the nursery; else it makes a fresh one when a job imports it.
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
