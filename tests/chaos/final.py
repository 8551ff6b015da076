"""The store as a run has left it, read once everything has stopped."""

from __future__ import annotations

from typing import Any

from cluster.client.payload import load_result
from cluster.core.effects import StoredJob
from cluster.core.records import Ending
from cluster.core.states import JobState
from cluster.store.locate import open_store
from cluster.store.port import Store
from tests.chaos.checker import FinalJob

PAGE = 1000
# The harness's own jobs, which look whether all slots work.
PROBE = "probe"


def read_store(url: str) -> list[FinalJob]:
    """Every job in it."""
    store = open_store(url)
    try:
        opening = store.open()
        assert not opening.tampered, opening.tampered
        found: list[FinalJob] = []
        after = 0
        while page := store.page(after, PAGE):
            found += [_final(store, each) for each in page if each.spec.options.name != PROBE]
            after = page[-1].seq
        assert not store.tampered, store.tampered
        return found
    finally:
        store.close()


def _final(store: Store, stored: StoredJob) -> FinalJob:
    spec, options = stored.spec, stored.spec.options
    outcome = store.outcome(spec.id) if stored.outcome is not None else None
    nonce = ""
    if outcome is not None and outcome.state is JobState.COMPLETED and not spec.items:
        result: Any = load_result(outcome.payload, spec.id)
        nonce = str(result[1])
    endings = [(Ending(each.ending).name, each.reason) for run, each in store.history(spec.id) if run == stored.run]
    return FinalJob(
        job=spec.id,
        token=spec.key or options.name,
        state=outcome.state.name if outcome is not None else "",
        run=stored.run,
        attempts=outcome.attempts if outcome is not None else stored.attempts,
        nonce=nonce,
        endings=tuple(endings),
        key=spec.key,
        retries=options.retry.max_retries,
        crash_limit=options.crash_limit,
        items=spec.items,
    )
