"""`master.tls` of a cluster's file: which certificates its parts use, and with `auto` that they are there.

    state/keys/...                     state/tls/ca.pem, ca.key, revoked.pem, issued.json
    state/run/NAME/...                 state/tls/master-NAME.pem, worker-worker-1.pem, client-local.pem, admin-local.pem, ....key

With `{ca: ..., cert: ..., key: ...}` the master uses those, and this host's workers and commands what lies beside `ca`
under the same names; they are made by `cluster certs`, perhaps elsewhere, and only looked for here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.deploy.certificates import DAY_SECONDS

if TYPE_CHECKING:
    from cluster.deploy.schema import Config

# Whose certificate this host's own commands and programs use.
LOCAL = "local"
# A quarter of a certificate's year: `up` need be said once in that time.
RENEWED_BEFORE_SECONDS = 90 * DAY_SECONDS
_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


def authority_folder(config: Config) -> Path:
    """Where the authority of a cluster is, or would be."""
    tls = config.master.tls
    return Path(tls.ca).parent if not isinstance(tls, str) else Path(config.master.keys).parent / "tls"
