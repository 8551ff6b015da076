"""The conformance suite: what every adapter of the store port must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from msgspec.structs import fields, replace

from cluster.core.effects import (
    Admitted,
    Answered,
    Ended,
    GivenBack,
    Purged,
    QueuePaused,
    Rebudgeted,
    Record,
    Requeued,
    StoredJob,
    Undone,
)
from cluster.core.records import DEFAULT_OPTIONS, JobSpec, Options, Outcome, RetryRule
from cluster.core.states import JobState
from cluster.errors import StoreError
from cluster.store.memory import MemoryStore
from cluster.store.port import Store
from cluster.store.sqlite import SqliteStore
from tests.store.build import DIGEST, FUNCTION, admitted, died, ended, failed, leased, requeued

# Closes a store and opens it again, as a restarted master does.
Reopen: TypeAlias = Callable[[Store], Store]

FULL_SPEC = JobSpec(
    "full", DIGEST, b"args",
    Options(
        name="fit", queue="gpu", priority=-3, retry=RetryRule(max_retries=2, retry_on=("builtins.OSError",)),
        crash_limit=0, timeout=1.5, resources=(("gpu", 2),), memory=(10**9,), labels=(("zone", "lab"),), tags=("a", "b"), result_ttl=9.0,
        echo=True,
    ),
    after=("job1", "job2"), inputs=("job2",), delay=2.5, at=1e9, expires=7.5, key="once", items=3, batch="m", first=6,
)  # fmt: skip


def make_memory(_folder: Path) -> Store:
    return MemoryStore()


def make_sqlite(folder: Path) -> Store:
    return SqliteStore(folder / "runs.db")


@pytest.fixture(params=[make_memory, make_sqlite], ids=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = request.param(tmp_path)
    made.open()
    yield made
    made.close()


def reopen(store: Store) -> Store:
    store.close()
    store.open()
    return store


def live(store: Store) -> list[StoredJob]:
    return list(store.live_jobs())


def test_an_admitted_job_comes_back_with_all_that_was_said_of_it(store: Store) -> None:
    record = Admitted(3, FULL_SPEC, 10.0, due=11.0, expires=12.0, owner=77)

    store.commit([FUNCTION, record])

    reopen(store)
    expected = StoredJob(seq=3, spec=FULL_SPEC, submitted=10.0, due=11.0, expires=12.0)
    assert live(store) == [expected]
    assert store.find("full") == expected
    assert list(store.functions([DIGEST, b"unknown"])) == [FUNCTION.blob]


def test_the_full_spec_of_these_tests_leaves_no_field_at_its_default() -> None:
    said = FULL_SPEC
    default = JobSpec("", b"", b"")

    unsaid = [field.name for field in fields(JobSpec) if getattr(said, field.name) == getattr(default, field.name)]
    unsaid += [f.name for f in fields(Options) if getattr(said.options, f.name) == getattr(DEFAULT_OPTIONS, f.name)]

    assert unsaid == []


def test_jobs_of_one_kind_share_their_options_and_digest(store: Store) -> None:
    options = Options(tags=("x",))
    store.commit([Admitted(seq, JobSpec(f"j{seq}", DIGEST, b"", options), 1.0) for seq in (1, 2)])

    first, second = live(reopen(store))

    assert first.spec.options is second.spec.options
    assert first.spec.function is second.spec.function


def test_each_opening_raises_the_epoch(store: Store) -> None:
    epochs = []
    for _ in range(3):
        store.close()
        epochs.append(store.open().epoch)

    assert epochs == sorted(set(epochs))


def test_a_store_that_is_open_is_not_opened_again(store: Store) -> None:
    with pytest.raises(StoreError, match="open already"):
        store.open()

    store.commit([admitted(1)])
    assert store.find("job1") is not None


def test_text_that_can_not_be_stored_names_nothing(store: Store) -> None:
    store.commit([admitted(1)])

    assert store.find("\ud800") is None
    assert store.find_key("\ud800") is None
    assert store.outcome("\ud800") is None
    assert store.answer("\ud800") is None
    assert (store.history("\ud800"), store.output("\ud800")) == ([], b"")


def test_a_store_may_be_closed_twice(store: Store) -> None:
    store.close()
    store.close()

    assert store.open().next_seq == 1


def test_numbers_are_never_given_out_again(store: Store) -> None:
    store.commit([admitted(1), admitted(2), leased("w#1", (41, 1))])
    store.commit([ended(1, 41, keep_until=0.0), Undone(2), Undone(8)])
    store.prune(1.0, lambda _job: False)

    store.close()
    opening = store.open()

    assert (opening.next_seq, opening.max_fence) == (9, 41)


def test_live_jobs_come_in_order_of_admission(store: Store) -> None:
    store.commit([admitted(seq) for seq in (1, 2, 3, 4)])
    store.commit([ended(2)])
    store.commit([admitted(5)])

    assert [job.seq for job in live(reopen(store))] == [1, 3, 4, 5]


def test_an_ended_job_has_its_outcome(store: Store) -> None:
    record = ended(1, 5, payload=b"x" * 3000)
    store.commit([admitted(1, args=b"y" * 3000), leased("w#1", (5, 1)), record])

    found = reopen(store).find("job1")

    assert found is not None
    assert (found.spec.args, found.outcome, found.state) == (b"y" * 3000, record.outcome, JobState.COMPLETED)
    assert (found.fence, found.worker, found.attempts) == (0, "", 1)
    assert store.outcome("job1") == record.outcome
    assert live(store) == []


def test_an_outstanding_lease_is_known_after_a_restart(store: Store) -> None:
    store.commit([admitted(1), admitted(2), admitted(3), leased("w#1", (7, 1), (8, 2))])
    store.commit([ended(2, 8)])

    first, third = live(reopen(store))

    assert (first.fence, first.worker, first.attempts) == (7, "w#1", 1)
    assert (third.fence, third.worker, third.attempts) == (0, "", 0)


def test_a_lease_given_back_spends_no_attempt(store: Store) -> None:
    store.commit([admitted(1), admitted(2), leased("w#1", (7, 1), (8, 2))])
    store.commit([GivenBack((7, 999))])

    first, second = live(reopen(store))

    assert (first.fence, first.attempts) == (0, 0)
    assert (second.fence, second.attempts) == (8, 1)


def test_a_lease_whose_end_is_in_the_same_group_is_over(store: Store) -> None:
    store.commit([admitted(1), admitted(2), leased("w#1", (7, 1), (8, 2)), failed(1, 7), GivenBack((8,))])

    first, second = live(reopen(store))

    assert (first.fence, first.attempts) == (0, 1)
    assert (second.fence, second.attempts) == (0, 0)


def test_a_failed_attempt_counts_and_ends_its_lease(store: Store) -> None:
    store.commit([admitted(1), leased("w#1", (7, 1))])
    store.commit([failed(1, 7, crashes=1, due=500.0)])
    store.commit([leased("w#2", (9, 1), attempt=2)])
    store.commit([failed(1, 9, crashes=2, due=600.0)])
    store.commit([leased("w#3", (11, 1), attempt=3)])

    (job,) = live(reopen(store))

    assert (job.attempts, job.crashes, job.outgrown) == (3, 2, 1)
    assert (job.due, job.progress) == (600.0, b"progress")
    assert (job.fence, job.worker) == (11, "w#3")


def test_a_requeued_job_lives_again_with_fresh_budgets(store: Store) -> None:
    store.commit([admitted(1), leased("w#1", (7, 1)), failed(1, 7), ended(1, state=JobState.DEAD_LETTER)])
    store.commit([requeued(1, 2)])

    (job,) = live(reopen(store))

    assert (job.run, job.attempts, job.crashes, job.progress, job.outcome) == (2, 0, 0, b"", None)
    assert store.outcome("job1") is None


def test_a_new_budget_takes_the_old_one_s_place_and_nothing_else_changes(store: Store) -> None:
    before = Admitted(3, FULL_SPEC, 10.0, due=11.0, expires=12.0, owner=77)
    after = replace(before, spec=replace(FULL_SPEC, options=replace(FULL_SPEC.options, crash_limit=9)))
    outcome = Outcome("full", 1, JobState.DEAD_LETTER, 200.0, certificate=died("given up"))
    store.commit([FUNCTION, before, Ended(3, 0, outcome, 1000.0)])
    store.commit([Requeued(3, "full", 2, 300.0), Rebudgeted(3, after)])

    reopen(store)

    expected = StoredJob(seq=3, spec=after.spec, submitted=10.0, due=11.0, expires=12.0, run=2)
    assert live(store) == [expected]
    assert store.find("full") == store.find_key("once") == expected
    assert list(store.functions([DIGEST])) == [FUNCTION.blob]


def test_a_new_budget_of_a_job_with_long_arguments_leaves_them_alone(store: Store) -> None:
    long = admitted(1, args=b"a" * 1_000_000)
    store.commit([long, ended(1, state=JobState.DEAD_LETTER)])

    changed = replace(long, spec=replace(long.spec, options=Options(crash_limit=9)))
    store.commit([requeued(1, 2), Rebudgeted(1, changed)])

    assert live(reopen(store))[0].spec == changed.spec


def test_a_new_budget_does_not_bring_a_job_back_that_is_gone(store: Store) -> None:
    store.commit([admitted(1), ended(1, state=JobState.DEAD_LETTER), Purged(1, "job1")])

    store.commit([Rebudgeted(1, admitted(1))])

    assert store.find("job1") is None


def test_a_result_outlives_later_runs_until_one_of_them_completes(store: Store) -> None:
    store.commit([admitted(1), ended(1, payload=b"first"), requeued(1, 2)])
    assert store.outcome("job1") is None
    told = [store.result("job1")]
    store.commit([ended(1, run=2, state=JobState.DEAD_LETTER, payload=b"error"), requeued(1, 3)])
    told.append(reopen(store).result("job1"))
    store.commit([ended(1, run=3, payload=b"third" * 10_000)])
    told.append(reopen(store).result("job1"))

    assert [(one.run, one.payload[:5]) for one in told if one] == [(1, b"first"), (1, b"first"), (3, b"third")]
    assert told[2] == store.outcome("job1")


def test_what_never_completed_has_no_result(store: Store) -> None:
    store.commit([admitted(1), admitted(2), ended(2, state=JobState.CANCELLED)])

    assert [store.result(name) for name in ("job1", "job2", "nobody")] == [None, None, None]


def test_a_later_run_has_an_outcome_of_its_own(store: Store) -> None:
    store.commit([admitted(1), ended(1, state=JobState.DEAD_LETTER), requeued(1, 2)])
    store.commit([ended(1, run=2, payload=b"second")])

    found = reopen(store).find("job1")

    assert found is not None
    assert found.outcome is not None
    assert (found.run, found.outcome.run, found.outcome.payload) == (2, 2, b"second")


def test_history_tells_every_bad_end_of_all_runs_in_order(store: Store) -> None:
    store.commit([admitted(1), failed(1, 7), failed(1, 9), ended(1, 11, state=JobState.DEAD_LETTER)])
    store.commit([requeued(1, 2), failed(1, 13, run=2)])
    store.commit([ended(1, 15, run=2)])

    told = [(run, certificate.reason) for run, certificate in reopen(store).history("job1")]

    assert told == [
        (1, "attempt under 7 died"),
        (1, "attempt under 9 died"),
        (1, "run 1 is given up"),
        (2, "attempt under 13 died"),
    ]
    assert store.history("nobody") == []


def test_output_is_that_of_all_attempts_in_order(store: Store) -> None:
    store.commit([admitted(1), failed(1, 7, output=b"one "), ended(1, 9, output=b"two ", state=JobState.DEAD_LETTER)])
    store.commit([requeued(1, 2), ended(1, 11, run=2, output=b"three")])

    assert reopen(store).output("job1") == b"one two three"
    assert store.output("nobody") == b""


def test_jobs_are_found_together_in_the_order_asked_for_and_none_that_is_not_there(store: Store) -> None:
    store.commit([FUNCTION, *[admitted(seq) for seq in range(1, 6)], leased("w#1", (41, 5))])
    store.commit([ended(2, payload=b"r" * 5000), failed(3, 42), ended(4), requeued(4, 2), Undone(1)])
    asked = ["job5", "nobody", "job3", "job1", "\ud800", "job4", "job2", "job2\0"]

    found = list(store.find_all(asked))

    assert [job for job, _ in found] == ["job5", "job3", "job4", "job2"]
    assert found == [(job, store.find(job)) for job in ("job5", "job3", "job4", "job2")]
    assert list(store.find_all([])) == []


def test_any_number_of_jobs_is_found(store: Store) -> None:
    store.commit([FUNCTION, *[admitted(seq) for seq in range(1, 1202)]])
    asked = [f"job{seq}" for seq in range(1201, 0, -1)]

    found = [job for job, _ in store.find_all(asked)]

    assert found == asked


def test_a_job_named_by_odd_text_is_found_under_it_alone(store: Store) -> None:
    names = ["a", "a\0b", "", 'q"uote', "é", "\U0001f600"]
    store.commit([FUNCTION, *[Admitted(seq, JobSpec(name, DIGEST, b""), 1.0) for seq, name in enumerate(names, 1)]])

    found = [(job, stored.seq) for job, stored in store.find_all(names) if isinstance(stored, StoredJob)]

    assert found == list(zip(names, range(1, 7), strict=True))


def test_a_job_is_found_by_its_key(store: Store) -> None:
    store.commit([admitted(1, key="once"), admitted(2)])

    found = reopen(store).find_key("once")

    assert found is not None
    assert found.spec.id == "job1"
    assert store.find_key("twice") is None
    assert store.find_key("") is None


def test_a_key_is_free_again_once_its_job_is_pruned(store: Store) -> None:
    store.commit([admitted(1, key="once"), ended(1, keep_until=5.0)])
    store.prune(6.0, lambda _job: False)

    store.commit([admitted(2, key="once")])

    found = store.find_key("once")
    assert found is not None
    assert found.spec.id == "job2"


def test_a_page_has_no_payloads(store: Store) -> None:
    long = b"x" * 5000
    store.commit([admitted(1), admitted(2, args=long), ended(1), ended(2, payload=long)])

    page = reopen(store).page(0, 10)

    assert [job.spec.args for job in page] == [b"", b""]
    assert [job.outcome.payload for job in page if job.outcome] == [b"", b""]


def test_pages_follow_each_other(store: Store) -> None:
    store.commit([admitted(seq) for seq in range(1, 8)])
    store.commit([Undone(3)])

    first = store.page(0, 3)
    second = store.page(first[-1].seq, 3)
    third = store.page(second[-1].seq, 3)

    assert [[job.seq for job in page] for page in (first, second, third)] == [[1, 2, 4], [5, 6, 7], []]


def test_a_page_of_one_state_has_only_jobs_in_it(store: Store) -> None:
    store.commit([admitted(seq) for seq in (1, 2, 3, 4)])
    store.commit([ended(4), ended(2), ended(3, state=JobState.DEAD_LETTER)])

    assert [job.seq for job in store.page(0, 10, JobState.COMPLETED)] == [2, 4]
    assert [job.seq for job in store.page(2, 10, JobState.COMPLETED)] == [4]
    assert [job.seq for job in store.page(0, 10, JobState.DEAD_LETTER)] == [3]
    assert store.page(0, 10, JobState.QUEUED) == []


def test_a_page_far_beyond_a_gap_is_found(store: Store) -> None:
    store.commit([admitted(1), admitted(1_000_000_000)])

    assert [job.seq for job in store.page(1, 10)] == [1_000_000_000]


def test_a_commit_sent_again_changes_nothing(store: Store) -> None:
    groups: list[list[Record]] = [
        [FUNCTION, admitted(1, key="once"), admitted(2), leased("w#1", (7, 1), (8, 2))],
        [failed(1, 7, output=b"o"), leased("w#2", (9, 1), attempt=2), QueuePaused("gpu", paused=True)],
        [GivenBack((8,)), ended(1, 9, state=JobState.DEAD_LETTER, output=b"p"), requeued(1, 2)],
        [leased("w#3", (12, 1), run=2)],
    ]
    for group in groups:
        store.commit(group)
        before = (live(store), store.history("job1"), store.output("job1"))

        store.commit(group)

        assert (live(store), store.history("job1"), store.output("job1")) == before
        reopen(store)
        assert (live(store), store.history("job1"), store.output("job1")) == before


def test_an_undone_admission_is_as_if_it_had_never_been(store: Store) -> None:
    store.commit([admitted(1, key="once"), leased("w#1", (7, 1)), failed(1, 7, output=b"o")])

    store.commit([Undone(1), ended(1, 7, output=b"late")])

    reopen(store)
    assert (store.find("job1"), store.find_key("once"), store.outcome("job1"), live(store)) == (None, None, None, [])
    assert (store.history("job1"), store.output("job1"), store.page(0, 10)) == ([], b"", [])
    store.commit([replace(admitted(2, key="once"), spec=replace(admitted(2).spec, id="job1", key="once"))])
    assert [job.spec.id for job in live(store)] == ["job1"]


def test_paused_queues_are_known_after_a_restart(store: Store) -> None:
    store.commit([QueuePaused("gpu", paused=True), QueuePaused("cpu", paused=True), QueuePaused("gpu", paused=False)])

    store.close()

    assert store.open().paused == ("cpu",)


def test_prune_drops_what_is_over_and_nobody_needs(store: Store) -> None:
    store.commit([admitted(seq) for seq in (1, 2, 3, 4, 5)])
    store.commit([ended(1, keep_until=5.0, output=b"o"), ended(2, keep_until=5.0), ended(3, keep_until=50.0)])
    store.commit([ended(5, keep_until=5.0, state=JobState.DEAD_LETTER), requeued(5, 2)])

    dropped = store.prune(6.0, lambda job: job == "job2")

    assert dropped == 1
    assert [job.seq for job in reopen(store).page(0, 10)] == [2, 3, 4, 5]
    assert (store.find("job1"), store.output("job1"), store.history("job1")) == (None, b"", [])


def test_prune_drops_no_more_than_it_was_told_and_goes_on_later(store: Store) -> None:
    store.commit([admitted(seq) for seq in range(1, 11)])
    store.commit([ended(seq, keep_until=5.0) for seq in range(1, 11)])

    dropped = [store.prune(6.0, lambda _job: False, limit=4) for _ in range(4)]

    assert dropped == [4, 4, 2, 0]
    assert store.page(0, 10) == []


def test_a_function_goes_with_its_last_job(store: Store) -> None:
    other = replace(FUNCTION, blob=replace(FUNCTION.blob, digest=b"g" * 32))
    store.commit([FUNCTION, other, admitted(1), admitted(2, function=b"g" * 32), ended(1, keep_until=5.0)])

    for _ in range(2):
        store.prune(6.0, lambda _job: False)

    assert list(store.functions([DIGEST, b"g" * 32])) == [other.blob]


def test_a_function_written_before_its_first_job_is_not_pruned(store: Store) -> None:
    store.commit([admitted(1, function=b"g" * 32), ended(1, keep_until=5.0)])
    store.commit([FUNCTION])

    for _ in range(2):
        store.prune(6.0, lambda _job: False)

    assert list(store.functions([DIGEST])) == [FUNCTION.blob]


def test_whoever_asks_what_is_needed_may_read_the_store(store: Store) -> None:
    store.commit([admitted(1), ended(1, keep_until=5.0)])

    dropped = store.prune(6.0, lambda job: store.find(job) is None)

    assert dropped == 1


def test_a_dead_run_tells_how_it_died(store: Store) -> None:
    store.commit([admitted(1), ended(1, state=JobState.DEAD_LETTER)])

    outcome = reopen(store).outcome("job1")

    assert outcome is not None
    assert outcome.certificate == died("run 1 is given up")


def test_bytes_are_counted(store: Store) -> None:
    before = store.size()

    store.commit([admitted(1, args=b"x" * 100_000), ended(1)])

    assert store.size() >= before + 100_000


# --- what jobs printed, and the room that all of it takes ------------------------------------------------------------


def nobody(_job: str) -> bool:
    return False


def test_old_output_goes_and_all_else_of_the_job_stays(store: Store) -> None:
    store.commit([admitted(1), failed(1, 7, output=b"one "), ended(1, 9, output=b"two", state=JobState.DEAD_LETTER)])
    before = (store.find("job1"), store.history("job1"))

    dropped = store.drop_outputs(200.5)

    assert dropped == 1
    assert reopen(store).output("job1") == b""
    assert (store.find("job1"), store.history("job1")) == before


def test_output_that_is_young_enough_stays(store: Store) -> None:
    store.commit([admitted(1), admitted(2), ended(1, at=100.0, output=b"old"), ended(2, at=200.0, output=b"young")])

    dropped = store.drop_outputs(200.0)

    assert (dropped, store.output("job1"), store.output("job2")) == (1, b"", b"young")


def test_what_a_live_job_has_printed_stays_however_old(store: Store) -> None:
    store.commit([admitted(1), failed(1, 7, output=b"one ")])
    store.commit([admitted(2), ended(2, 8, output=b"first "), requeued(2, 2), failed(2, 9, run=2, output=b"second")])

    dropped = store.drop_outputs(1e12)

    assert (dropped, store.output("job1"), store.output("job2")) == (1, b"one ", b"second")


def test_no_more_output_is_dropped_at_once_than_it_was_told(store: Store) -> None:
    store.commit([admitted(seq) for seq in range(1, 11)])
    store.commit([ended(seq, seq, output=b"o") for seq in range(1, 11)])

    dropped = [store.drop_outputs(1e12, limit=4) for _ in range(4)]

    assert dropped == [4, 4, 2, 0]
    assert [store.output(f"job{seq}") for seq in range(1, 11)] == [b""] * 10


def test_output_of_a_job_that_was_pruned_is_not_looked_for(store: Store) -> None:
    store.commit([admitted(1), ended(1, 7, keep_until=5.0, output=b"o"), admitted(2), ended(2, 8, output=b"p")])
    store.prune(6.0, nobody)

    dropped = store.drop_outputs(1e12)

    assert (dropped, store.output("job2")) == (1, b"")


def test_a_store_with_room_drops_nothing(store: Store) -> None:
    store.commit([admitted(1), ended(1, payload=b"x" * 100_000)])

    room = store.make_room(10**9, nobody)

    assert (room.dropped, room.excess) == (0, 0)
    assert store.find("job1") is not None


def full(store: Store, *ends: Record, size: int = 100_000) -> int:
    """Each of these jobs ended with so many bytes; the number of bytes that three of them fit in, and four do not."""
    before = used(store)
    for end in ends:
        assert isinstance(end, Ended)
        outcome = replace(end.outcome, payload=b"x" * size)
        store.commit([admitted(end.seq), replace(end, outcome=outcome)])
    return before + 3 * size + size // 2


def used(store: Store) -> int:
    """The bytes that count, by asking for more room than there can be."""
    return store.make_room(0, lambda _job: True).excess


def test_the_oldest_ended_jobs_go_until_there_is_room(store: Store) -> None:
    fits = full(store, *(ended(seq) for seq in (1, 2, 3, 4, 5)))

    room = store.make_room(fits, nobody)

    assert (room.dropped, room.excess) == (2, 0)
    assert [job.seq for job in reopen(store).page(0, 10)] == [3, 4, 5]


def test_dead_letters_go_after_all_others(store: Store) -> None:
    dead = JobState.DEAD_LETTER
    fits = full(store, ended(1, state=dead), ended(2, state=dead), ended(3), ended(4), ended(5, state=dead))

    rooms = [store.make_room(fits - 100_000, nobody) for _ in range(3)]

    assert (sum(room.dropped for room in rooms), rooms[-1].excess) == (3, 0)
    assert [job.seq for job in store.page(0, 10)] == [2, 5]


def test_dead_letters_are_spared_again_once_there_was_room(store: Store) -> None:
    dead = JobState.DEAD_LETTER
    fits = full(store, ended(1, state=dead), ended(2, state=dead), ended(3, state=dead), ended(4, state=dead))
    while store.make_room(fits, nobody).dropped:
        pass

    store.commit(
        [admitted(5), ended(5, payload=b"x" * 100_000), admitted(6), ended(6, payload=b"x" * 5000, state=dead)]
    )
    while store.make_room(fits, nobody).dropped:
        pass

    assert [job.seq for job in store.page(0, 10)] == [2, 3, 4, 6]


def test_live_and_needed_jobs_stay_however_little_room_there_is(store: Store) -> None:
    full(store, *(ended(seq) for seq in (1, 2, 3, 4)))
    store.commit([requeued(2, 2), admitted(5, args=b"x" * 100_000)])

    rooms = [store.make_room(1, lambda job: job == "job3") for _ in range(2)]

    assert (rooms[0].dropped, rooms[1].dropped) == (2, 0)
    assert rooms[1].is_exhausted
    assert [job.seq for job in store.page(0, 10)] == [2, 3, 5]


def test_no_more_jobs_make_room_at_once_than_it_was_told(store: Store) -> None:
    full(store, *(ended(seq) for seq in range(1, 6)))

    rooms = [store.make_room(1, nobody, limit=2) for _ in range(3)]

    assert [(room.dropped, room.is_exhausted) for room in rooms[:2]] == [(2, False), (2, False)]
    assert rooms[2].dropped == 1
    assert store.page(0, 10) == []


def test_a_job_requeued_while_room_is_made_stays(store: Store) -> None:
    full(store, ended(1), ended(2))

    def requeue_meanwhile(job: str) -> bool:
        if job == "job1":
            store.commit([requeued(1, 2)])
        return False

    store.make_room(1, requeue_meanwhile)

    assert [job.seq for job in live(store)] == [1]


# --- both adapters say the same of any life ------------------------------------------------------------------------


class Life:
    """A board's stand-in: turns drawn numbers into records that a board could have written."""

    def __init__(self) -> None:
        self.next_seq = 1
        self.next_fence = 1
        self.runs: dict[int, int] = {}
        self.ended: set[int] = set()
        self.leases: dict[int, int] = {}

    def step(self, action: int, pick: int) -> list[Record]:
        if action == 0 or not self.runs:
            seq, self.next_seq = self.next_seq, self.next_seq + 1
            self.runs[seq] = 1
            return [admitted(seq, key=f"k{seq}" if pick % 2 else "")]
        seq = sorted(self.runs)[pick % len(self.runs)]
        run, lease = self.runs[seq], self.leases.get(seq, 0)
        if seq in self.ended:
            if action == 1:
                self.ended.discard(seq)
                self.runs[seq] += 1
                return [requeued(seq, run + 1)]
            return []
        if action == 1 and not lease:
            self.leases[seq] = self.next_fence
            self.next_fence += 1
            return [leased(f"w#{pick % 3}", (self.leases[seq], seq), run=run)]
        if action == 2 and lease:
            del self.leases[seq]
            return [GivenBack((lease,))]
        if action == 3 and lease:
            del self.leases[seq]
            return [failed(seq, lease, run=run, output=b"out%d;" % lease)]
        if action == 4:
            self.leases.pop(seq, None)
            self.ended.add(seq)
            state = JobState.COMPLETED if pick % 2 else JobState.DEAD_LETTER
            return [ended(seq, lease, run=run, state=state, output=b"end%d;" % lease if lease else b"")]
        if action == 5 and pick % 5 == 0:
            self.leases.pop(seq, None)
            del self.runs[seq]
            return [Undone(seq)]
        return []


def everything(store: Store, last: int) -> object:
    ids = [f"job{seq}" for seq in range(1, last)]
    listed = [store.page(0, 1000), store.page(0, 1000, JobState.COMPLETED), store.page(last // 2, 2)]
    found = [(store.find(i), store.find_key(f"k{i}"), store.outcome(i), store.history(i), store.output(i)) for i in ids]
    return live(store), listed, found


@settings(max_examples=40)
@given(
    groups=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=12), st.booleans(), st.booleans()
        ),
        max_size=8,
    )
)
def test_both_adapters_say_the_same_of_any_life(
    tmp_path_factory: pytest.TempPathFactory, groups: list[tuple[list[tuple[int, int]], bool, bool]]
) -> None:
    stores = [make_memory(Path()), make_sqlite(tmp_path_factory.mktemp("life"))]
    for store in stores:
        store.open()
    life = Life()

    for steps, is_sent_again, is_restarted in groups:
        group = [record for action, pick in steps for record in life.step(action, pick)]
        for store in stores:
            store.commit(group)
            if is_sent_again:
                store.commit(group)
            if is_restarted:
                reopen(store)

    memory, sqlite = (everything(store, life.next_seq) for store in stores)
    openings = []
    for store in stores:
        store.close()
        openings.append(store.open())
        store.close()
    assert memory == sqlite
    assert (openings[0].next_seq, openings[0].max_fence) == (openings[1].next_seq, openings[1].max_fence)


# --- requests, purges -------------------------------------------------------------------------------------------------


def test_an_answer_is_found_by_its_request_after_a_reopening_too(store: Store) -> None:
    store.commit([Answered("r1", b"one", 500.0)])

    reopen(store)

    assert (store.answer("r1"), store.answer("r2")) == (b"one", None)


def test_an_answer_written_twice_is_there_once(store: Store) -> None:
    store.commit([Answered("r1", b"one", 500.0)])
    store.commit([Answered("r1", b"one", 500.0)])

    assert store.answer("r1") == b"one"


def test_answers_are_pruned_when_nobody_asks_for_them_any_more(store: Store) -> None:
    store.commit([Answered("old", b"1", 500.0), Answered("new", b"2", 700.0)])

    store.prune(600.0, lambda job: False)

    assert (store.answer("old"), store.answer("new")) == (None, b"2")


def test_a_purged_job_is_gone_and_one_that_lives_again_is_not(store: Store) -> None:
    store.commit([FUNCTION, admitted(1), admitted(2), ended(1, state=JobState.DEAD_LETTER), ended(2), requeued(2, 2)])

    store.commit([Purged(1, "job1"), Purged(2, "job2")])

    assert store.find("job1") is None
    assert [job.spec.id for job in live(store)] == ["job2"]
