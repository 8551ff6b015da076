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
