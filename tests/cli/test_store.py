"""`cluster store ...` on real files, and beside a real master."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

import cluster
from tests.acceptance.lab import a_lab
from tests.cli.rig import Call

URL = "sqlite:///runs.db"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with jobs of a real cluster: three whose results nobody keeps, and one that is kept."""
    with cluster.local(slots=1, store=f"sqlite:///{tmp_path}/runs.db") as c:
        for number in range(3):
            c.submit(bytes, (100_000 * number,), result_ttl=1e-6).result(20)
        c.submit(pow, (2, 10)).result(20)
    return tmp_path / "runs.db"


def alter(store: Path) -> None:
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE outcomes SET keep_until = keep_until + 1 WHERE seq = 4")
    connection.close()


def test_a_sound_store_is_told_as_such(store: Path, call_alone: Call) -> None:
    told = call_alone("store", "check", URL)
    document = call_alone("store", "check", URL, "--json").document

    assert (told.status, told.err) == (0, "")
    assert "sound" in told.out
    assert re.search(r"^jobs +4$", told.out, re.MULTILINE)
    assert (document["findings"], document["counts"]["jobs"]) == ([], 4)


def test_each_fault_is_a_line_and_the_status_says_so(store: Path, call_alone: Call) -> None:
    alter(store)

    told = call_alone("store", "check", URL)
    as_json = call_alone("store", "check", URL, "--json")

    assert (told.status, as_json.status) == (1, 1)
    assert re.match(r"wrong: the outcome of run 1 of job '[-\w]+' is not what this cluster wrote", told.lines[0])
    assert len(as_json.document["findings"]) == 1


def test_a_store_that_is_not_there_is_told_and_not_made(tmp_path: Path, call_alone: Call) -> None:
    for command in ("check", "backup", "prune"):
        told = call_alone("store", command, "sqlite:///typo.db")

        assert told.status == (1 if command == "check" else 2)
        assert "there is no store at" in told.out + told.err

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory:", "has no file"),
        ("runs.db", "did you mean 'sqlite:///runs.db'?"),
        ("mysql://x", "names no store; write memory:, sqlite:"),
    ],
)
def test_a_url_that_names_no_file_is_a_mistake(url: str, said: str, call_alone: Call) -> None:
    told = call_alone("store", "check", url)

    assert told.status == 2
    assert said in told.err


def test_a_backup_is_made_beside_the_store_or_where_it_is_said_and_replaces_nothing(
    store: Path, call_alone: Call
) -> None:
    dated = call_alone("store", "backup", URL, "--json")
    named = call_alone("store", "backup", URL, "safe.db")
    again = call_alone("store", "backup", URL, "safe.db")
    forced = call_alone("store", "backup", URL, "safe.db", "--force")

    assert (dated.status, named.status, again.status, forced.status) == (0, 0, 2, 0)
    assert re.fullmatch(r"runs\.db\.backup-\d{8}-\d{6}", Path(dated.document["backup"]).name)
    assert dated.document["counts"]["jobs"] == 4
    assert str(store.with_name("safe.db")) in named.out
    assert "write --force" in again.err


def test_a_restore_says_what_it_kept_and_the_cluster_goes_on_from_the_backup(store: Path, call_alone: Call) -> None:
    call_alone("store", "backup", URL, "safe.db")
    with cluster.local(slots=1, store=f"sqlite:///{store}") as c:
        late = c.submit(pow, (2, 11)).accepted(20).id

    told = call_alone("store", "restore", URL, "safe.db")

    assert told.status == 0
    kept = [line for line in told.err.splitlines() if line.startswith("kept: ")]
    assert [Path(line[6:]).exists() for line in kept] == [True, True]
    with cluster.local(slots=1, store=f"sqlite:///{store}") as c:
        assert len(list(c.jobs())) == 4
        with pytest.raises(cluster.UnknownJob):
            c.job(late).cancel()


def test_prune_drops_what_is_over_and_makes_the_file_smaller(store: Path, call_alone: Call) -> None:
    before = store.stat().st_size

    told = call_alone("store", "prune", URL, "--json")

    assert told.status == 0
    assert told.document["pruned"] == 3
    assert told.document["freed"] > 200_000
    assert store.stat().st_size == before - told.document["freed"]
    assert call_alone("store", "check", URL, "--json").document["counts"]["jobs"] == 1
    assert call_alone("store", "prune", URL).out.startswith("0 pruned")


def test_prune_keeps_what_a_job_that_waits_will_ask_for(tmp_path: Path, call_alone: Call) -> None:
    with cluster.local(slots=1, store=f"sqlite:///{tmp_path}/runs.db") as c:
        first = c.submit(pow, (2, 10), result_ttl=1e-6)
        first.result(20)
        waiting = c.submit(abs, (first,), delay=3600).accepted(20).id
        c.close(wait=False)

    told = call_alone("store", "prune", URL, "--json")

    assert told.document["pruned"] == 0
    with cluster.local(slots=1, store=f"sqlite:///{tmp_path}/runs.db") as c:
        assert {info.id for info in c.jobs()} == {first.id, waiting}
        c.close(wait=False)


def test_beside_a_master_check_and_backup_work_and_restore_and_prune_are_refused(
    tmp_path: Path, call_alone: Call
) -> None:
    url = "sqlite:///lab.db"
    with a_lab(tmp_path) as lab, lab.connect() as client:
        lab.start_worker()
        client.submit(pow, (2, 10)).result(20)

        looked = call_alone("store", "check", url, "--json")
        made = call_alone("store", "backup", url, "safe.db")
        restored = call_alone("store", "restore", url, "safe.db")
        pruned = call_alone("store", "prune", url)

        assert (looked.status, looked.document["findings"]) == (0, [])
        assert made.status == 0
        assert (restored.status, pruned.status) == (2, 2)
        who = f"process {lab.processes[0].pid} "
        assert who in restored.err
        assert who in pruned.err
        assert "prunes by itself each minute" in pruned.err
        assert client.submit(pow, (2, 11)).result(20) == 2048

    assert call_alone("store", "check", "sqlite:///safe.db", "--json").document["findings"] == []
