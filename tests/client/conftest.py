from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.client.handle import Cluster
from tests.client.desk import InlineDesk


@pytest.fixture
def desk() -> Iterator[InlineDesk]:
    desk = InlineDesk()
    yield desk
    desk.stop()
    desk.check()


@pytest.fixture
def c(desk: InlineDesk) -> Iterator[Cluster]:
    handle = Cluster(desk, owns_workers=True)
    yield handle
    desk.gate.set()
    handle.close(wait=False)
