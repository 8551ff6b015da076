"""`cluster.launch`: a configuration file's cluster, as a handle.

The cluster is made of processes of its own and does not need this program: if the program dies, its keeper, master and
workers go on, and the next `launch` of the same file finds them. Closing the handle, or leaving its `with` block, brings
down what this `launch` brought up; a cluster that was up before stays up. A program that ends without closing the handle
leaves the cluster up: `cluster down FILE` ends it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from cluster.client.handle import Cluster

if TYPE_CHECKING:
    from cluster.deploy.schema import Config
    from cluster.wire.remote_jobs import RemoteJobsDesk


class LaunchedCluster(Cluster):
    """A handle on a cluster that may have to go down with it."""

    def __init__(self, config: Config, *, is_ours: bool) -> None:
        self.config = config
        self._owner = os.getpid() if is_ours else 0
        super().__init__(self._dial(), owns_workers=True, reconnect=self._dial)

    def close(self, wait: bool = True, cancel: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the base class
        """See `Cluster.close`. Without waiting for its jobs, the cluster is stopped at once."""
        from cluster.deploy import lifecycle

        try:
            super().close(wait, cancel)
        except BaseException:  # Ctrl-C while it waits
            wait = False
            raise
        finally:
            # A forked child closes its own conversation and nothing else.
            is_owner, self._owner = self._owner == os.getpid(), 0
            if is_owner:
                try:
                    lifecycle.down(self.config, now=not wait)
                except KeyboardInterrupt:  # somebody does not want to wait for the jobs of others
                    lifecycle.down(self.config, now=True)
                    raise

    def _dial(self) -> RemoteJobsDesk:
        from cluster.deploy import lifecycle
        from cluster.deploy.commands import key_file
        from cluster.deploy.tls import files_of
        from cluster.wire.address import parse_address
        from cluster.wire.keys import Role, load_key
        from cluster.wire.remote_jobs import RemoteJobsDesk

        config = self.config
        return RemoteJobsDesk(
            parse_address(lifecycle.address_of(config)),
            load_key(key_file(config, Role.CLIENT)),
            tls=files_of(config, Role.CLIENT),
            insecure=config.master.insecure,
        )


def launch(file: str | os.PathLike[str], **overrides: Any) -> Cluster:  # noqa: ANN401 - values of any key
    """Bring the cluster of a YAML file up, and connect to it; returns when its workers are ready.

    Leaving its `with` block waits for the jobs that were submitted through it, then brings the cluster down; left by an
    exception, or closed with `wait=False`, it stops at once, and what has not ended stays in the store. A cluster that
    was up before this call is not brought down.

    Args:
        file: the configuration. `cluster up FILE` brings up the same.
        overrides: values for the file's keys, sections joined by two underscores: `master__bind="tcp://127.0.0.1:0"`.

    Raises:
        Refused: the file says what can't be, or the cluster is up with other settings.
        MasterUnavailable: it does not get ready.
    """
    # Here, so that `import cluster` loads neither pydantic nor a YAML reader.
    from cluster.deploy import lifecycle
    from cluster.deploy.load import load_config

    config = load_config(file, overrides=overrides)
    # On one host, jobs find the modules that this program finds.
    paths = [os.path.abspath(path) for path in sys.path if path]  # noqa: PTH100 - pathlib is not worth loading for it
    is_ours = lifecycle.up(config, python_path=paths)
    try:
        return LaunchedCluster(config, is_ours=is_ours)
    except BaseException:
        if is_ours:
            lifecycle.down(config, now=True)
        raise
