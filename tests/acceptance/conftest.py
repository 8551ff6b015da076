"""A cluster of two slots that a whole module shares: what one test does to it, the next one would notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cluster


@pytest.fixture(scope="module")
def pool() -> Iterator[cluster.Cluster]:
    with cluster.local(slots=2, resources={"gpu": 1}, labels={"zone": "lab"}) as handle:
        yield handle
