"""The jobs of a chaos run. Each execution tells its host's file that it began, that it lives, and that it ends.

Light to import, for each child that runs one imports this module, and nothing of the kit but `current_job`: what is
written down here must not depend on what is under test. Every 10 ms of a nap leaves a sign of life, which is how sharply
an overlap of two executions can be seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import cluster

RECORDS_VARIABLE = "CHAOS_RECORDS"
SIGN_SECONDS = 0.01

Result = tuple[str, str]  # the token it is of, and the nonce of the execution that made it


def _write(kind: str, **fields: Any) -> None:
    line = json.dumps({"type": kind, **fields}) + "\n"
    file = os.open(os.environ[RECORDS_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


@contextlib.contextmanager
def _recorded(token: str, data: bytes, **more: Any) -> Iterator[str]:
    job = cluster.current_job()
    nonce = os.urandom(8).hex()
    digest = hashlib.sha256(data).hexdigest()
    _write(
        "Began", job=job.id, token=token, run=job.run, attempt=job.attempt, fence=job.fence, pid=os.getpid(),
        at=time.monotonic(), nonce=nonce, digest=digest, **more,
    )  # fmt: skip
    yield nonce
    _write("Finished", nonce=nonce, at=time.monotonic())


def _last(nonce: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        time.sleep(min(rest, SIGN_SECONDS))  # sleeps because a job must last
        _write("Alive", nonce=nonce, at=time.monotonic())


def nap(token: str, data: bytes, seconds: float = 0.0) -> Result:
    """Last for so long."""
    with _recorded(token, data) as nonce:
        _last(nonce, seconds)
    return token, nonce


def fail_before(token: str, data: bytes, attempt: int) -> Result:
    """Raise in every attempt before this one."""
    with _recorded(token, data) as nonce:
        is_early = cluster.current_job().attempt < attempt
    if is_early:
        raise RuntimeError(token)
    return token, nonce


def die(token: str, data: bytes) -> NoReturn:
    """End the process."""
    with _recorded(token, data):
        os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


def follow(token: str, data: bytes, earlier: Result) -> Result:
    """Tell whose result it was given."""
    with _recorded(token, data, given=earlier[1]) as nonce:
        pass
    return token, nonce


def square(token: str, item: int) -> tuple[int, str]:
    """An item of a map."""
    with _recorded(token, b"", item=item) as nonce:
        _last(nonce, 0.005)
    return item * item, nonce
