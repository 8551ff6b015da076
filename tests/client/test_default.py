from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from cluster.client import default, origins
from cluster.client.connect import connect_default
from cluster.client.handle import Cluster
from cluster.errors import ClusterError, MasterUnavailable
from cluster.wire import dependency
from tests.client.desk import DEADLINE_SECONDS, InlineDesk

# A program whose default cluster runs on the desk double.
PREFACE = """
    import os, signal, sys, threading
    from cluster.client import default, origins
    from cluster.client.handle import Cluster
    from tests.client.desk import InlineDesk

    desk = InlineDesk()
    def made():
        print("made", flush=True)
        return Cluster(desk, owns_workers=True, on_close=lambda: print("closed", flush=True))
    origins.embedded = made
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLUSTER_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PREFACE) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


@pytest.fixture
def _no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLUSTER_ADDRESS", raising=False)
    monkeypatch.setattr(default, "_stack", [])
    monkeypatch.setattr(default, "_embedded", None)


def test_inside_a_job_it_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch, c: Cluster) -> None:
    monkeypatch.setattr(dependency, "inside_job", True)

    with default.use(c), pytest.raises(ClusterError, match="not there yet"):
        _ = default.submit(pow, (2, 3))


def test_used_handles_are_innermost_until_they_are_closed(desk: InlineDesk, c: Cluster) -> None:
    other = Cluster(desk, owns_workers=True)
    with default.use(c):
        default.use(other)
        assert default.current() is other

        other.close()

        assert default.current() is c


def test_use_is_a_block_too(desk: InlineDesk, c: Cluster) -> None:
    with Cluster(desk, owns_workers=True) as outer:
        with default.use(c) as used:
            assert used is default.current() is c
        assert default.current() is outer


def test_threads_started_in_a_block_mean_the_same_cluster(c: Cluster) -> None:
    seen: list[Cluster] = []
    with default.use(c):
        thread = threading.Thread(target=lambda: seen.append(default.current()))
        thread.start()
        thread.join(DEADLINE_SECONDS)

    assert seen == [c]


def test_blocks_of_several_threads_may_end_in_any_order(desk: InlineDesk, c: Cluster) -> None:
    other = Cluster(desk, owns_workers=True)
    default.push(c)
    default.push(other)

    default.remove(c)

    assert default.current() is other
    other.close()


@pytest.mark.usefixtures("_no_default")
def test_an_address_is_never_silently_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_ADDRESS", "tcp://head:7601")
    monkeypatch.setattr(origins, "embedded", lambda: pytest.fail("a silent fallback"))
    monkeypatch.setattr(origins, "connected", connect_default)
    monkeypatch.delenv("CLUSTER_AUTHKEY_FILE", raising=False)

    with pytest.raises(MasterUnavailable, match=r"'tcp://head:7601'.*unset it to use an embedded one"):
        _ = default.submit(pow, (2, 3))


@pytest.mark.usefixtures("_no_default")
def test_without_a_factory_it_says_what_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "embedded", None)

    with pytest.raises(ClusterError, match="import the package"):
        default.current()


def test_the_functions_are_those_of_the_default_cluster(c: Cluster) -> None:
    with default.use(c):
        jobs = [default.submit(pow, (2, n)) for n in range(3)]

        assert default.gather(jobs) == [1, 2, 4]
        assert list(default.map(abs, [-1, -2])) == [1, 2]
        assert list(default.starmap(pow, [(2, 3)])) == [8]


def test_an_embedded_one_is_made_once_and_closed_at_exit_after_its_jobs() -> None:
    done = run("""
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool:
            assert len({id(cluster) for cluster in pool.map(lambda _: default.current(), range(8))}) == 1
        desk.gate.clear()
        def say(): os.write(1, b"ran\\n")  # in one piece, for two threads write
        default.submit(say)
        job = default.submit(pow, (2, 3))
        job.add_done_callback(lambda job: os.write(1, b"called back %d\\n" % job.result()))
        threading.Timer(0.2, desk.gate.set).start()
    """)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "made"
    assert done.stdout.split("\n")[-2] == "closed"
    assert sorted(done.stdout.split("\n")[1:-2]) == ["called back 8", "ran"]
    assert done.stderr == ""


def test_ctrl_c_during_the_wait_at_exit_stops_at_once() -> None:
    done = run("""
        desk.gate.clear()
        default.submit(pow, (2, 3))
        # Of the process and not of a thread, as the one that the terminal sends; no thread can be started at exit.
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
    """)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["made", "closed"]


def test_a_program_that_ends_by_ctrl_c_does_not_wait_for_its_jobs() -> None:
    done = run("""
        desk.gate.clear()
        default.submit(pow, (2, 3))
        raise KeyboardInterrupt
    """)

    assert done.returncode == -signal.SIGINT
    assert done.stdout.split() == ["made", "closed"]


def test_a_program_that_ends_by_an_exception_still_waits_for_its_jobs() -> None:
    done = run("""
        desk.gate.clear()
        job = default.submit(pow, (2, 3))
        job.add_done_callback(lambda job: print("called", flush=True))
        threading.Timer(0.2, desk.gate.set).start()
        raise LookupError
    """)

    assert done.returncode == 1
    assert done.stdout.split() == ["made", "called", "closed"]
