from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cloudpickle
import psutil
import pytest

from cluster.core.records import Digest, Ending, FunctionBlob, Report, WorkerId
from cluster.errors import Refused
from cluster.wire.messages import Health, Poll
from cluster.worker import supervisor as supervisor_module
from cluster.worker.config import WorkerConfig
from cluster.worker.supervisor import FEW_JOBS, Supervisor
from cluster.worker.vector import Courier, Single
from tests.worker.gate import Gate
from tests.worker.recording_desk import RecordingDesk, a_worker, wait_gone

DEADLINE_SECONDS = 20.0


def test_jobs_may_be_there_before_the_worker() -> None:
    desk = RecordingDesk()
    fences = [desk.put(abs, -n) for n in range(50)]

    with a_worker(slots=2, desk=desk):
        assert [desk.result_of(fence) for fence in fences] == list(range(50))


def test_it_registers_as_what_it_is() -> None:
    with a_worker(slots=3, resources=(("gpu", 2),), labels=(("zone", "lab"),)) as (desk, supervisor):
        desk.wait(lambda: desk.hellos)

        (hello,) = desk.hellos
        assert hello.worker == supervisor.statistics().worker
        assert (hello.name, hello.pid, hello.slots) == ("w", os.getpid(), 3)
        assert (hello.resources, hello.labels) == ((("gpu", 2),), (("zone", "lab"),))


def test_it_may_be_stopped_twice_and_before_it_starts_but_started_once() -> None:
    never = Supervisor(WorkerConfig(name="w", slots=1))
    never.stop()
    never.stop()
    with pytest.raises(RuntimeError, match="make a new one"):
        never.start(RecordingDesk())

    with a_worker(slots=1) as (desk, supervisor):
        with pytest.raises(RuntimeError):
            supervisor.start(desk)
        supervisor.stop()
        supervisor.stop()
        assert supervisor.drain(1) is True
        supervisor.wake()


def test_its_children_are_there_before_it_has_a_desk() -> None:
    supervisor = Supervisor(WorkerConfig(name="w", slots=2))
    desk = RecordingDesk()
    try:
        supervisor.prepare()
        supervisor.prepare()
        nursery = supervisor.statistics().nursery_pid
        children = wait_for_children(nursery, 2)
        supervisor.start(desk)

        assert supervisor.wait_ready(DEADLINE_SECONDS)
        assert set(supervisor.slot_pids()) == children
        assert supervisor.statistics().nurseries == 1
        assert desk.result_of(desk.put(abs, -3)) == 3
    finally:
        supervisor.stop()


def test_one_that_was_prepared_and_never_started_leaves_nothing_behind() -> None:
    supervisor = Supervisor(WorkerConfig(name="w", slots=2))
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    supervisor.prepare()
    nursery = supervisor.statistics().nursery_pid
    children = wait_for_children(nursery, 2)

    supervisor.stop()
    supervisor.stop()

    assert all(wait_gone(pid, 0.0) for pid in (nursery, *children))
    assert len(list(Path("/proc/self/fd").iterdir())) < descriptors  # its own epoll is closed too
    with pytest.raises(RuntimeError, match="make a new one"):
        supervisor.start(RecordingDesk())


def wait_for_children(parent: int, count: int) -> set[int]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if len(found := {child.pid for child in psutil.Process(parent).children()}) == count:
            return found
    raise AssertionError(f"no {count} children in {DEADLINE_SECONDS} s")


def test_what_is_only_good_for_many_jobs_is_got_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Courier] = []
    has_beaten = threading.Event()

    def make(max_bytes: int) -> Courier:
        made.append(Single(max_bytes))
        return made[-1]

    class Desk(RecordingDesk):
        def heartbeat(self, worker: WorkerId, health: Health) -> None:
            super().heartbeat(worker, health)
            has_beaten.set()

    monkeypatch.setattr(supervisor_module, "FIRST_HEARTBEAT_SECONDS", 600.0)
    monkeypatch.setattr(supervisor_module, "make_courier", make)
    with a_worker(slots=1, desk=Desk(), heartbeat_interval_seconds=600.0) as (desk, supervisor):
        for _ in range(FEW_JOBS):
            assert desk.result_of(desk.put(abs, -1)) == 1
        after_few = len(made)
        assert desk.result_of(desk.put(abs, -1)) == 1
        after_many = len(made)
        supervisor.beat_every(0.01)

        assert has_beaten.wait(DEADLINE_SECONDS)
        assert (after_few, after_many, len(made)) == (0, 1, 1)


def test_what_is_good_for_many_jobs_is_got_with_the_first_heartbeat_at_the_latest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_made = threading.Event()

    def make(max_bytes: int) -> Courier:
        is_made.set()
        return Single(max_bytes)

    monkeypatch.setattr(supervisor_module, "make_courier", make)
    with a_worker(slots=1, heartbeat_interval_seconds=0.01):
        assert is_made.wait(DEADLINE_SECONDS)


def test_all_slots_work_at_once(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with a_worker(slots=4) as (desk, supervisor):
        fences = [desk.put(gate.pass_through) for _ in range(4)]

        pids = {gate.wait_entered() for _ in fences}

        assert pids == set(supervisor.slot_pids())
        statistics = supervisor.statistics()
        assert sorted(slot.job for slot in statistics.slots) == sorted(f"job-{fence}" for fence in fences)
        assert all(slot.queued == 1 and slot.spawned == 1 for slot in statistics.slots)
        gate.release(4)
        assert {desk.result_of(fence) for fence in fences} == pids


def test_no_more_is_asked_for_than_the_slots_can_take(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with a_worker(slots=2) as (desk, _):
        fences = [desk.put(gate.pass_through) for _ in range(5)]
        for _ in range(2):
            gate.wait_entered()

        desk.wait(lambda: desk.waiting == 3)
        gate.release(5)

        assert len({desk.result_of(fence) for fence in fences}) == 2


def test_a_thousand_wakes_are_harmless() -> None:
    with a_worker(slots=1) as (desk, supervisor):

        def wake() -> None:
            for _ in range(1000):
                supervisor.wake()

        threads = [threading.Thread(target=wake) for _ in range(4)]
        for thread in threads:
            thread.start()
        fences = [desk.put(abs, -n) for n in range(100)]
        for thread in threads:
            thread.join()

        assert [desk.result_of(fence) for fence in fences] == list(range(100))


def test_heartbeats_carry_the_host_s_and_each_slot_s_health(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    with a_worker(slots=2, heartbeat_interval_seconds=0.05) as (desk, _):
        desk.put(gate.pass_through)
        pid = gate.wait_entered()
        seen = len(desk.health)
        desk.wait(lambda: len(desk.health) > seen + 2)
        gate.release()

        health = desk.health[-1]
        assert health.memory_total > health.memory_available > 0
        assert health.disk_free > 0
        busy = [slot for slot in health.slots if slot.job]
        assert [slot.pid for slot in busy] == [pid]
        assert busy[0].memory > 1_000_000
        assert busy[0].seconds > 0


class ForgetfulDesk(RecordingDesk):
    """Forgets its workers once, at the next heartbeat."""

    def heartbeat(self, worker: WorkerId, health: Health) -> None:
        if self.refuses:
            self.refuses = False
            self.forget_workers()
        super().heartbeat(worker, health)


def test_a_master_that_forgot_the_worker_gets_another_and_nothing_goes_on(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    desk = ForgetfulDesk()
    with a_worker(slots=1, desk=desk, heartbeat_interval_seconds=0.05) as (_, supervisor):
        fence = desk.put(gate.pass_through)
        first = gate.wait_entered()

        desk.refuses = True

        second = gate.wait_entered()
        assert second != first
        assert wait_gone(first, 0.0)
        gate.release()
        assert desk.result_of(fence) == second
        assert len({hello.worker for hello in desk.hellos}) == 2
        assert supervisor.statistics().worker == desk.hellos[-1].worker


class UnreachableDesk(RecordingDesk):
    """Fails in ways that say nothing about the worker."""

    reachable = True

    def heartbeat(self, worker: WorkerId, health: Health) -> None:
        if not self.reachable:
            raise ConnectionError("no route to the master")
        super().heartbeat(worker, health)


def test_what_runs_is_killed_when_no_heartbeat_is_accepted_for_a_lease(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(tmp_path)
    desk = UnreachableDesk()
    with a_worker(slots=1, desk=desk, heartbeat_interval_seconds=0.02, lease_seconds=0.1):
        fence = desk.put(gate.pass_through)
        first = gate.wait_entered()

        desk.reachable = False
        assert wait_gone(first, 10.0)
        desk.reachable = True
        with desk._changed:
            lease = desk._held.pop(fence)
        desk.put_leases([lease])

        second = gate.wait_entered()
        gate.release()
        assert desk.result_of(fence) == second
    assert "no heartbeat was accepted" in caplog.text


class OversleptDesk(RecordingDesk):
    """The worker's process sleeps while it reports, and when it wakes its leases are over."""

    def __init__(self) -> None:
        super().__init__()
        self.sleep: Callable[[], None] | None = None
        self.fetched: list[Digest] = []

    def report(self, worker: WorkerId, reports: Sequence[Report]) -> None:
        super().report(worker, reports)
        if self.sleep is not None:
            self.sleep()
            self.sleep = None
            self.refuses = True

    def heartbeat(self, worker: WorkerId, health: Health) -> None:
        if self.refuses:
            self.refuses = False
            self._known.clear()
        super().heartbeat(worker, health)

    def fetch_function(self, digest: Digest) -> FunctionBlob:
        self.fetched.append(digest)
        return super().fetch_function(digest)


def test_nothing_begins_after_a_sleep_before_the_lease_was_looked_at(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    desk = OversleptDesk()
    with a_worker(slots=1, desk=desk, heartbeat_interval_seconds=1000.0) as (_, supervisor):
        ended = desk.put(gate.pass_through)
        gate.wait_entered()
        taken_back = desk.lease(abs, cloudpickle.dumps(((-1,), {}), protocol=5))

        def sleep() -> None:
            supervisor._heartbeat_at = 0.0  # long ago
            # As from behind a job that turned out long, or of a child that died.
            supervisor._slots.put_back([taken_back])

        desk.sleep = sleep
        gate.release()

        desk.wait(lambda: len(desk.hellos) == 2, "a new registration")
        assert ended in desk.reports
        assert taken_back.function not in desk.fetched


class ClumsyDesk(RecordingDesk):
    """Raises at the first call of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self._failed: set[str] = set()

    def _fail_once(self, name: str) -> None:
        if name not in self._failed:
            self._failed.add(name)
            raise RuntimeError(f"{name} failed once")

    def register(self, hello: object, wake: object) -> None:
        self._fail_once("register")
        super().register(hello, wake)  # type: ignore[arg-type]

    def poll(self, worker: WorkerId, capacity: int) -> Poll:
        self._fail_once("poll")
        return super().poll(worker, capacity)

    def report(self, worker: WorkerId, reports: Sequence[Report]) -> None:
        self._fail_once("report")
        super().report(worker, reports)


def test_a_desk_that_raises_is_logged_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    desk = ClumsyDesk()
    fences = [desk.put(abs, -n) for n in range(20)]
    with a_worker(slots=2, desk=desk):
        assert [desk.result_of(fence) for fence in fences] == list(range(20))

    for name in ("register", "poll", "report"):
        assert f"{name} failed once" in caplog.text


def test_a_function_that_the_desk_can_t_give_fails_its_job_only() -> None:
    with a_worker(slots=1) as (desk, _):
        report = desk.report_of(desk.put(b"no such digest"))

        assert report.ending is Ending.CRASHED
        assert report.certificate is not None
        assert "couldn't get its function" in report.certificate.reason
        assert desk.result_of(desk.put(abs, -1)) == 1


def test_a_fork_of_the_program_can_t_stop_its_parent_s_worker() -> None:
    with a_worker(slots=1) as (desk, supervisor):
        assert supervisor.wait_ready(20)
        pid = os.fork()
        if pid == 0:
            supervisor.stop()
            os._exit(0)

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert desk.result_of(desk.put(abs, -4)) == 4


def test_a_refused_registration_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class Reluctant(RecordingDesk):
        asked = 0

        def register(self, hello: object, wake: object) -> None:
            self.asked += 1
            if self.asked < 3:
                raise Refused("not yet")
            super().register(hello, wake)  # type: ignore[arg-type]

    desk = Reluctant()
    with a_worker(slots=1, desk=desk):
        assert desk.result_of(desk.put(abs, -1)) == 1
    assert "not yet" in caplog.text


class Errands:
    """What a supervisor's thread is lent for."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.said: list[tuple[str, str]] = []
        self.has_changed = threading.Condition()
        self.ring = supervisor.lend(lambda: self.note("errand"), lambda: self.note("after"))

    def note(self, what: str) -> None:
        with self.has_changed:
            self.said.append((what, threading.current_thread().name))
            self.has_changed.notify_all()

    def ring_and_wait(self) -> None:
        """Until an errand, and what comes after it, was done since the ring."""
        seen = len(self.said)
        self.ring()
        with self.has_changed:
            assert self.has_changed.wait_for(
                lambda: self.kinds(seen)[-1:] == ["after"] and "errand" in self.kinds(seen), 20
            )

    def kinds(self, first: int) -> list[str]:
        return [what for what, _ in self.said[first:]]


def test_a_lent_thread_does_its_errand_each_time_that_it_is_rung_for() -> None:
    with a_worker(slots=1) as (_, supervisor):
        errands = Errands(supervisor)
        for _ in range(5):
            errands.ring_and_wait()

        kinds = [what for what, _ in errands.said]
        assert {thread for _, thread in errands.said} == {"cluster-supervisor"}
        while kinds[0] == "after":  # of a turn that had begun before
            del kinds[0]
        assert kinds[: len(kinds) // 2 * 2] == ["errand", "after"] * (len(kinds) // 2)


def test_a_thread_whose_desk_fails_still_does_its_errands_and_what_comes_after_them() -> None:
    desk = ClumsyDesk()
    with a_worker(slots=1, desk=desk) as (_, supervisor):
        errands = Errands(supervisor)
        fence = desk.put(abs, -3)
        for _ in range(5):
            errands.ring_and_wait()

        assert desk.result_of(fence) == 3


def test_an_errand_that_raises_after_all_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    with a_worker(slots=1) as (desk, supervisor):
        errands = Errands(supervisor)
        for failing in ("_errand", "_after_errand"):
            raised = threading.Event()

            def fail(raised: threading.Event = raised) -> None:
                raised.set()
                raise LookupError("an errand's defect")

            sound = getattr(supervisor, failing)
            setattr(supervisor, failing, fail)
            for _ in range(2):  # in a turn, and in the pause that follows
                raised.clear()
                errands.ring()
                assert raised.wait(20)
            setattr(supervisor, failing, sound)

        errands.ring_and_wait()
        assert desk.result_of(desk.put(abs, -3)) == 3
    assert "an errand's defect" in caplog.text
