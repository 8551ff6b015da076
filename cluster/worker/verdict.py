"""Why a child died, from what the kernel says of it. Pure."""

from __future__ import annotations

import os
import signal

from msgspec import Struct

from cluster.core.records import Ending

# What the signals that end processes mean to somebody who doesn't know their numbers.
_MEANINGS = {
    signal.SIGSEGV: "a segmentation fault: native code touched memory that isn't its own",
    signal.SIGABRT: "abort: native code found itself in an impossible state",
    signal.SIGBUS: "a bus error: native code touched memory that isn't there",
    signal.SIGFPE: "an arithmetic fault in native code",
    signal.SIGILL: "an illegal instruction: native code built for another processor",
    signal.SIGKILL: "killed from outside, or by itself",
    signal.SIGTERM: "asked to end from outside",
}


HOST = "/proc/vmstat"


class Verdict(Struct, frozen=True):
    """How a death ended the job that was in hand."""

    ending: Ending
    reason: str
    signal: int = 0
    exit_code: int | None = None


def classify(status: int, *, is_out_of_memory: bool) -> Verdict:
    """Judge a death that nobody ordered.

    Args:
        status: the wait status.
        is_out_of_memory: the kernel has killed something for its memory since this job began.
    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Verdict(Ending.CRASHED, f"its process exited with code {code} before the job ended", exit_code=code)
    number = -code
    if number == signal.SIGKILL and is_out_of_memory:
        reason = "its process was killed for its memory (out of memory)"
        return Verdict(Ending.OUT_OF_MEMORY, reason, signal=number)
    return Verdict(Ending.CRASHED, f"its process was killed by {_name(number)}", signal=number)


def _name(number: int) -> str:
    try:
        known = signal.Signals(number)
    except ValueError:  # a real-time signal
        return f"signal {number}"
    meaning = _MEANINGS.get(known)
    return f"{known.name} ({meaning})" if meaning else known.name


def count_oom_kills(source: str = HOST) -> int:
    """How often the kernel has killed for memory since boot, here or in any cgroup; 0 where it doesn't say.

    Args:
        source: or since it was made, in the cgroup whose memory.events this is.
    """
    try:
        with open(source, "rb") as file:  # noqa: PTH123 - read with each heartbeat
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
