"""`python -m tests.chaos --minutes M [--seed S] [--stage loopback|hosts|kept] [--spare-master]`: exit status 1 on a violation."""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.faults import SPARED_MASTER, Mix
from tests.chaos.hosts import HostsStage
from tests.chaos.kept import KeptStage
from tests.chaos.run import run
from tests.chaos.stage import Stage

STAGES: dict[str, type[Stage]] = {"loopback": Stage, "hosts": HostsStage, "kept": KeptStage}


def main() -> int:
    """Play one run and tell what it came to."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long things are broken")
    parser.add_argument("--seed", type=int, default=None, help="which faults in which order; fresh if not given")
    parser.add_argument("--stage", choices=sorted(STAGES), default="loopback", help="what it is played on")
    parser.add_argument(
        "--spare-master", action="store_true", help="freeze it and cut it off, but never kill it: its memory is watched"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run without a violation too")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    logging.getLogger("cluster").setLevel(logging.ERROR)  # that the master can't be reached is no news here
    mix = SPARED_MASTER if given.spare_master else Mix()
    print(f"chaos: seed {seed}, {given.minutes:g} minutes on {given.stage}", flush=True)
    # Whoever ends this early, a `timeout` say, must not leave a cluster running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="cluster-chaos-"))
    with STAGES[given.stage](folder, seed=seed) as stage:
        report = run(stage, given.minutes * 60, mix, spared=frozenset({"worker-0"}))
    print(report)
    if report.violations:
        print(f"all that was written down is kept: {folder}")
        again = f"--minutes {given.minutes:g} --seed {seed} --stage {given.stage}"
        print(f"again: python -m tests.chaos {again}{' --spare-master' if given.spare_master else ''}")
        return 1
    if given.keep:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
