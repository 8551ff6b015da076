"""Nobody waits behind another for long."""

from __future__ import annotations

from pathlib import Path

from cluster.worker.supervisor import Supervisor
from tests.worker.gate import Gate
from tests.worker.recording_desk import RecordingDesk, a_worker


def work(gate: Gate | None) -> int:
    """Quick without a gate; with one, as long as the test likes. The worker can't know which it gets."""
    return gate.pass_through() if gate is not None else 0


def teach(desk: RecordingDesk, supervisor: Supervisor) -> bytes:
    """A function that the worker has learnt to be quick, so that it queues many behind one another."""
    assert supervisor.wait_ready(20)
    function = desk.function(work, reusable=True)
    for _ in range(30):
        desk.result_of(desk.put(function, None))
    return function


def test_jobs_behind_one_that_turned_out_long_are_taken_to_an_idle_slot(tmp_path: Path) -> None:
    with a_worker(slots=2) as (desk, supervisor):
        function = teach(desk, supervisor)
        gate = Gate(tmp_path)

        leases = [desk.lease(function, _call(gate)), *(desk.lease(function, _call(None)) for _ in range(40))]
        slow, *quick = desk.put_leases(leases)
        gate.wait_entered()

        assert [desk.result_of(fence) for fence in quick] == [0] * 40
        assert slow not in desk.reports
        gate.release()
        desk.result_of(slow)


def test_jobs_behind_long_ones_in_every_slot_are_given_back(tmp_path: Path) -> None:
    with a_worker(slots=2) as (desk, supervisor):
        function = teach(desk, supervisor)
        gate = Gate(tmp_path)

        leases = [desk.lease(function, _call(gate)) for _ in range(2)]
        leases += [desk.lease(function, _call(None)) for _ in range(20)]
        fences = desk.put_leases(leases)
        for _ in range(2):
            gate.wait_entered()

        # On a busy machine some of them may have run before the second long one; none may stay behind it.
        desk.wait(lambda: sum(desk.is_held(fence) for fence in fences) == 2)
        gate.release(2)

        for fence in fences:
            desk.result_of(fence)


def test_short_jobs_are_queued_in_the_child(tmp_path: Path) -> None:
    with a_worker(slots=1) as (desk, supervisor):
        function = teach(desk, supervisor)
        polls: list[int] = []
        poll = desk.poll

        def counting_poll(worker: str, capacity: int) -> object:
            polls.append(capacity)
            return poll(worker, capacity)

        desk.poll = counting_poll  # type: ignore[method-assign, assignment]
        fences = desk.put_leases([desk.lease(function, _call(None)) for _ in range(500)])
        for fence in fences:
            desk.result_of(fence)

        assert max(polls) > 10
        assert len(polls) < 200


def test_that_a_job_runs_is_told_once_if_it_runs_for_a_while(tmp_path: Path) -> None:
    with a_worker(slots=2) as (desk, supervisor):
        function = teach(desk, supervisor)
        gate = Gate(tmp_path)
        before = set(desk.begun_fences)  # of short ones, if the machine is that busy

        fence = desk.put(function, gate)
        desk.wait(lambda: fence in desk.begun_fences)
        short = [desk.result_of(desk.put(function, None)) for _ in range(100)]
        gate.release()
        desk.result_of(fence)

        assert len(short) == 100
        assert desk.begun_fences.count(fence) == 1
        assert len(set(desk.begun_fences) - before) < 20


def _call(gate: Gate | None) -> bytes:
    import pickle

    return pickle.dumps(((gate,), {}))
