"""Certificates of a cluster that stays up: looked at each day, and renewed long before they end.

The keeper starts `python -m cluster.deploy.renewal FOLDER` and does not wait for it. It is a process of its own because it
loads `cryptography`, which the keeper would hold for years to use it for a moment. What it renews, the parts take by
themselves with their next connection.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from cluster.deploy.runtime import Runtime
from cluster.deploy.tls import prepare
from cluster.errors import ClusterError
from cluster.log_lines import set_up_log

LOG = logging.getLogger("cluster.renewal")

LOOK_SECONDS = 86400.0


class Renewal:
    """When to look again; one thread's."""

    def __init__(self, folder: Path, now: float) -> None:
        """`now` is of the monotonic clock; `up` has just looked."""
        self._command = [sys.executable, "-P", "-m", "cluster.deploy.renewal", str(folder)]
        self._due = now + LOOK_SECONDS
        self._process: subprocess.Popen[bytes] | None = None

    def look(self, now: float) -> None:
        """Start the process if it is time, and collect the earlier one."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        if now >= self._due and self._process is None:
            self._due = now + LOOK_SECONDS
            try:
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            except OSError as error:  # no memory, no descriptors: tomorrow again
                LOG.warning("certificates can't be looked at: %s", error)


def renew(folder: Path) -> int:
    """See to the certificates of the cluster whose runtime folder this is; the exit status of the process."""
    snapshot = Runtime(folder).snapshot()
    if snapshot is None:
        return 0  # brought down in the meantime
    config = snapshot.parse()
    set_up_log(config.log.level, config.log.format)
    try:
        prepare(config)
    except ClusterError as error:
        LOG.error("certificates can't be renewed: %s", error)  # noqa: TRY400 - a sentence says it all
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(renew(Path(sys.argv[1])))
