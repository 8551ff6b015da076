from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from cluster.core.effects import Admitted, Requeued
from cluster.core.records import JobSpec, Options
from cluster.store import journal, rows
from cluster.store.rows import BadSealError, Reader
from cluster.store.seal import Seal
from cluster.store.sqlite import SqliteStore
from tests.store.build import DIGEST, admitted, ended


def test_whole_numbers_where_the_columns_are_real_keep_their_seal(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    store.commit([admitted(1), replace(ended(1), keep_until=1000), Requeued(1, "job1", 2, 300)])

    assert [(job.seq, job.run) for job in store.live_jobs()] == [(1, 2)]
    assert len(store.history("job1")) == 0
    store.close()


def test_what_is_shared_between_jobs_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.store.rows.MAX_SHARED", 5)
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    specs = [JobSpec(f"job{seq}", b"f%d" % seq, b"", Options(name=f"n{seq}")) for seq in range(1, 51)]
    store.commit([Admitted(seq, spec, 1.0) for seq, spec in enumerate(specs, 1)])

    assert [job.spec for job in store.live_jobs()] == specs
    assert len(store._records._options) <= 6
    assert len(store._records._digests) <= 6
    store.close()


@pytest.mark.parametrize("kind", [-1, len(journal.KINDS), 1 << 40])
def test_a_record_of_a_kind_that_this_version_does_not_know_is_refused_by_name(kind: int) -> None:
    with pytest.raises(rows.UNREADABLE, match=f"a record of kind {kind}"):
        journal.decode(msgspec.msgpack.encode([(kind, Requeued(1, "job1", 2, 300.0))]))


def test_a_row_is_named_when_its_seal_does_not_fit() -> None:
    reader = Reader(Seal(b"k" * 32))

    with pytest.raises(BadSealError, match=f"function {DIGEST.hex()[:16]}"):
        reader.function((DIGEST, b"", None, b"code", b"no seal"))
