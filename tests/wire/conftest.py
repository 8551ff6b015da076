from __future__ import annotations

import pytest

from cluster.wire import server
from cluster.wire.audit import Audit


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> Audit:
    """An audit of this test's own: what earlier tests did counts in, and keeps quiet, the process's one."""
    made = Audit()
    monkeypatch.setattr(server, "AUDIT", made)
    return made
