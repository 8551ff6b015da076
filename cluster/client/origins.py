"""Where default clusters come from: said by the package when it is imported, asked by `default`.

This room can't import the one, and importing the other there would be a cycle.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in the package
if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.client.handle import Cluster

# An embedded one; and the one that the environment names.
embedded: Callable[[], Cluster] | None = None
connected: Callable[[], Cluster] | None = None
