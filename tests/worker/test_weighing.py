from __future__ import annotations

import os
import subprocess
import sys

from cluster.worker import weighing

# Not to be looked into by an ordinary user, not even by its own: as a job of another user is where root lacks a capability.
_HIDDEN = (
    "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); held = b'x' * 50_000_000; print(1, flush=True); input()"
)
_WEIGH = "import sys; from cluster.worker.weighing import weigh_exactly; print(weigh_exactly(int(sys.argv[1])))"


def test_what_can_not_be_weighed_exactly_is_weighed_roughly_and_not_taken_for_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", _HIDDEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ordinary = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
        weighed = subprocess.check_output(
            [*ordinary, sys.executable, "-c", _WEIGH, str(process.pid)], text=True, timeout=60
        )
        process.kill()

    assert int(weighed) > 50_000_000


def test_a_process_that_has_ended_weighs_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()

    assert weighing.weigh_exactly(process.pid) == 0
    assert weighing.weigh_exactly(os.getpid()) > 0
