"""What a process holds that used much memory in many threads for a while."""

from __future__ import annotations

import subprocess
import sys

# Threads that free all but every hundredth of what they took: nothing at an arena's end is free, and most of it is.
PROGRAM = """
import os, threading
from cluster.master.trimming import trim

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

kept = []
def use():
    taken = [bytearray(20_000) for _ in range(1000)]
    kept.extend(taken[::100])
    kept.append(taken[-1])

for _ in range(4):
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
before = resident()
trim()
print(before, resident(), len(kept))
"""


def test_what_is_free_between_what_is_used_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)

    before, after, kept = map(int, done.stdout.split())
    assert kept == 16 * 11
    assert after < before - 8_000_000, (before, after)


# Sixteen threads that all are in the allocator at once have an arena each, up to the limit; `malloc_info` counts them.
ARENAS = """
import ctypes, sys, threading
from cluster.master.trimming import limit_arenas

if sys.argv[1] == "limited":
    limit_arenas()
ready = threading.Barrier(17)
def use():
    kept = [ctypes.create_string_buffer(2_000) for _ in range(100)]
    ready.wait(30)
threads = [threading.Thread(target=use) for _ in range(16)]
for thread in threads: thread.start()
ready.wait(30)
for thread in threads: thread.join()
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(library.fdopen(1, b"w"))
library.malloc_info(0, stream)
library.fflush(stream)
"""


def arenas(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", ARENAS, how], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.count("<heap nr=")


def test_a_master_s_threads_share_two_arenas() -> None:
    assert arenas("limited") <= 2 < arenas("unlimited")
