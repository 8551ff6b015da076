"""What happens when a job fails: retries, a child that dies, a job given up, and a second run of it."""

import os
import signal
import tempfile
from pathlib import Path

import cluster


def fails_twice(tries: Path) -> str:
    """Leave one mark for each try; succeed at the third."""
    marks = len(list(tries.iterdir()))
    (tries / f"try-{marks}").touch()
    if marks < 2:
        raise ConnectionError(f"try {marks + 1}: nobody there")
    return f"answered at try {marks + 1}"


def kills_its_own_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_settings(path: Path) -> str:
    return path.read_text(encoding="utf-8")


with tempfile.TemporaryDirectory() as folder, cluster.local(slots=2) as c:
    # A failure of the task itself is tried again `retries` times, here at short intervals.
    tries = Path(folder, "tries")
    tries.mkdir()
    patient = cluster.RetryPolicy(max_retries=3, backoff=0.05)
    job = c.submit(fails_twice, (tries,), retries=patient)
    print(job.result())
    assert job.result() == "answered at try 3"

    # A child that dies costs its own job only, and the reason is told. `crash_limit=0`: not once more.
    crashing = c.submit(kills_its_own_process, crash_limit=0)
    neighbour = c.submit(pow, (2, 10))
    reason = crashing.exception()
    print(reason)
    assert isinstance(reason, cluster.JobCrashed)
    assert "SIGKILL" in str(reason)
    assert neighbour.result() == 1024

    # A job that is given up becomes a dead letter. Mend what was wrong, and start a new run of it.
    settings = Path(folder, "settings.txt")
    reading = c.submit(read_settings, (settings,), name="settings")
    assert isinstance(reading.exception(), FileNotFoundError)
    dead = {letter.id for letter in c.dead_letters()}
    assert dead == {reading.id, crashing.id}

    settings.write_text("speed = 3", encoding="utf-8")
    second_run = reading.retry()
    print("second run:", second_run.result())
    assert second_run.result() == "speed = 3"
