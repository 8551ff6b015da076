"""Someone writes to the store while no master runs: what was altered is set aside with the reason, and the rest goes on."""

from __future__ import annotations

import os
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import cluster
from tests.acceptance.lab import Lab, a_lab

DEADLINE_SECONDS = 30.0


class Planted:
    """Whoever unpickles it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def plant(lab: Lab, statement: str, mark: Path, job: str) -> None:
    connection = sqlite3.connect(lab.folder / "lab.db", isolation_level=None)
    said = pickle.dumps(Planted(mark))
    assert connection.execute(statement, {"planted": said, "job": job}).rowcount == 1
    connection.close()


def test_planted_pickles_are_never_read_and_their_jobs_are_told_apart(tmp_path: Path) -> None:
    mark = tmp_path / "owned"
    with a_lab(tmp_path) as lab:
        with lab.connect() as client:
            waiting, victim = (client.submit(pow, (2, n), name=f"n{n}").accepted(DEADLINE_SECONDS).id for n in (3, 4))
            client.close(wait=False)
        worker = lab.start_worker(slots=1)
        with lab.connect() as client:
            ended = client.submit(pow, (2, 5))
            assert ended.result(DEADLINE_SECONDS) == 32
            assert client.job(victim).result(DEADLINE_SECONDS) == 16
        worker.terminate()
        worker.wait()
        with lab.connect() as client:
            live = client.submit(abs, (-1,)).accepted(DEADLINE_SECONDS).id
            other = client.submit(abs, (-2,)).accepted(DEADLINE_SECONDS).id
            client.close(wait=False)
        lab.processes[0].terminate()
        lab.processes[0].wait()
        plant(lab, "UPDATE jobs SET args = :planted WHERE id = :job", mark, live)
        seq = "(SELECT seq FROM jobs WHERE id = :job)"
        plant(lab, f"UPDATE outcomes SET payload = :planted WHERE seq = {seq}", mark, victim)

        lab.start_master()
        lab.start_worker("w2", slots=1)
        with lab.connect() as client:
            assert client.job(other).result(DEADLINE_SECONDS) == 2
            assert client.job(waiting).result(DEADLINE_SECONDS) == 8
            for job in (live, victim):
                with pytest.raises(cluster.StoreTampered, match=f"job '{job}' is not what this cluster wrote"):
                    client.job(job).result(DEADLINE_SECONDS)
            aside = {info.id: info for info in client.dead_letters()}
            # Found when it was asked for, or when the master looked for live jobs.
            assert aside.keys() == {live, victim}
            for info in aside.values():
                assert info.certificate is not None
                assert info.certificate.ending.name == "TAMPERED"
                assert "neither run nor answered" in info.certificate.reason
            with pytest.raises(cluster.StoreTampered):
                client.requeue(live)
        log = lab.log()

    assert "record_tampered: origin=store" in log
    assert f"tampered: table=jobs job={live}" in log
    assert f"tampered: table=outcomes job={victim}" in log
    assert not mark.exists()
