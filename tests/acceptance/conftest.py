"""What several modules use: a cluster of two slots, and room for a crowd."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

import cluster


@pytest.fixture(scope="module")
def pool() -> Iterator[cluster.Cluster]:
    """Shared by a whole module: what one test does to it, the next one would notice."""
    with cluster.local(slots=2, resources={"gpu": 1}, labels={"zone": "lab"}) as handle:
        yield handle


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """For a test that opens a thousand sockets itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
