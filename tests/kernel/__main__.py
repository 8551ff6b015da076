"""Runs this room's tests on a kernel of their own: `make kernel`.

A machine may keep its controllers on cgroup version 1, or not be ours to turn them on. User Mode Linux is a kernel that runs
as a program, with this machine's files to read, its own processes, and all controllers on version 2. Debian has it in the
package `user-mode-linux`.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ("tests/kernel/limits.py", "tests/worker/test_groups.py")
MAX_SECONDS = 900
DONE = "the tests ended with status "

_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
cd {root}
uname -sr
{command}
echo "{done}$?"
exec poweroff -f
"""


def run(kernel: str, arguments: list[str]) -> int:
    """Boot, run the tests, and halt; their exit status."""
    program = shutil.which(kernel)
    if program is None:
        print(f"there is no {kernel}; install user-mode-linux, or name the kernel: --kernel PATH", file=sys.stderr)
        return 2
    command = shlex.join([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, *arguments])
    with tempfile.TemporaryDirectory() as folder:
        init = Path(folder, "init")
        init.write_text(_INIT.format(root=shlex.quote(str(ROOT)), command=command, done=DONE))
        init.chmod(0o755)
        machine = subprocess.Popen(
            [program, "mem=2G", "root=/dev/root", "rootfstype=hostfs", "ro", f"init={init}", "con=null", "con0=null,fd:1", "quiet"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        try:
            said, _ = machine.communicate(timeout=MAX_SECONDS)
        except subprocess.TimeoutExpired:
            machine.kill()
            said, _ = machine.communicate()
    print(said)
    status = said.rpartition(DONE)[2].split()[:1]
    return int(status[0]) if status and status[0].isdecimal() else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", default="linux.uml", help="the program")
    known, rest = parser.parse_known_args()
    sys.exit(run(known.kernel, rest))
