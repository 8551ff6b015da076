"""One job's function and real arguments, loaded in a person's own process to see why it failed.

As in a child (`child.py`, `running.py`), but without slot, lease and report: nothing that happens here reaches the
cluster, and the job stays what it is. What the function itself does to the outside world it does, though; its
`current_job().fence` is 0, so whoever compares fences refuses it.

For a process that does this and nothing else: the job in hand is a thing of the whole process.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from cluster.core.records import JobId, Payload
from cluster.errors import EnvironmentMismatch, Refused
from cluster.wire import dependency
from cluster.wire.messages import JobParts
from cluster.worker import job_context
from cluster.worker.blobs import mismatch
from cluster.worker.functions import load_function
from cluster.worker.job_context import JobContext


class Call(Struct, frozen=True):
    """What the job is, once unpickled."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@contextlib.contextmanager
def as_job(parts: JobParts, run: int, inputs: Mapping[JobId, Payload]) -> Iterator[None]:
    """While the block lasts this process is at that job: `current_job()` names it, Jobs among its arguments are results."""
    was_inside = dependency.inside_job
    dependency.inside_job = True
    dependency.current.update(inputs)
    job_context.install(lambda: JobContext(parts.spec.id, run=run))
    try:
        yield
    finally:
        job_context.install(None)
        dependency.current.clear()
        dependency.inside_job = was_inside


def check(parts: JobParts, item: int) -> None:
    """Whether it can be replayed here; nothing is unpickled.

    Raises:
        EnvironmentMismatch: it was pickled by another Python or cloudpickle.
        Refused: it is a chunk and has no such item.
    """
    spec = parts.spec
    reason = mismatch(parts.function)
    if reason is not None:
        raise EnvironmentMismatch(spec.id, reason)
    if not spec.items and item >= 0:
        raise Refused(f"job {spec.id} is no chunk of a map, and has no items; leave --item out")
    if spec.items and not 0 <= item < spec.items:
        raise Refused(
            f"job {spec.id} is a chunk of {spec.items} items of a map; write --item N, from 0 to {spec.items - 1}"
        )


def load(parts: JobParts, item: int) -> Call:
    """Unpickle the job; of a chunk, the call that is its item of this number.

    Raises whatever unpickling its function or its arguments raises: that may be what is looked for.
    """
    function = load_function(parts.function.body)
    if not parts.spec.items:
        args, kwargs = pickle.loads(parts.spec.args)
        return Call(function, args, kwargs)
    items = pickle.loads(parts.spec.args)
    if isinstance(items, tuple):  # a column: see `running.Items`
        return Call(function, (items[0][item],), {})
    found = items[item]
    return Call(function, pickle.loads(found) if isinstance(found, bytes) else found, {})
