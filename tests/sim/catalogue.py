"""The jobs that simulated clients submit: every option that the board knows, in all mixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from cluster.core.digests import name_function
from cluster.core.records import JobId, JobSpec, Options, RetryRule

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

Call: TypeAlias = "Callable[[Host], None]"

FUNCTIONS = tuple(name_function(b"code", "3.11", "3.0", f"task{n}", reusable=False) for n in range(1, 4))
QUEUES = ("default", "slow")
RESOURCES = (("gpu", 1),)
LABELS = (("zone", "lab"),)

# A clock that is set back makes a restored retry wait that long, and nothing else happens meanwhile.
MAX_DELAY_SECONDS = 20.0
RETRIES = (
    RetryRule(),
    RetryRule(max_retries=1, backoff=0.5, max_delay=MAX_DELAY_SECONDS),
    RetryRule(max_retries=3, backoff=0.1, factor=3.0, max_delay=MAX_DELAY_SECONDS, retry_on=("builtins.ValueError",)),
    RetryRule(max_retries=2, backoff=0.2, max_delay=MAX_DELAY_SECONDS, retry_on=("builtins.OSError",)),
)
SHORT_RETENTION_SECONDS = 3.0


def draw(name: str, earlier: list[JobId], world: World) -> JobSpec:
    """A job by chance."""
    dice, tastes = world.dice, world.plan.tastes
    is_at_most_once = dice.random() < tastes.at_most_once
    is_special = dice.random() < tastes.special
    options = Options(
        name=name,
        queue=QUEUES[dice.random() < 0.2],
        priority=dice.choice((0, 0, 0, 1, -1)),
        retry=RETRIES[0] if is_at_most_once else dice.choice(RETRIES),
        crash_limit=0 if is_at_most_once else dice.choice((0, 1, 2, 5)),
        resources=RESOURCES if is_special and dice.random() < 0.4 else (),
        labels=LABELS if is_special and dice.random() < 0.3 else (),
        # By the name and not by the dice.
        memory=(1, 2) if sum(name.encode()) % 7 == 0 else (),
        result_ttl=SHORT_RETENTION_SECONDS if is_special and dice.random() < 0.2 else 1e9,
    )
    after = (
        tuple(dict.fromkeys(dice.choices(earlier[-8:], k=dice.randint(1, 2))))
        if earlier and dice.random() < tastes.dependants
        else ()
    )
    inputs = after if after and dice.random() < 0.5 else ()
    nature = dice.choice("gggggrrccbkm")
    key = f"K{dice.randint(1, tastes.keys)}" if is_special and dice.random() < 0.15 else ""
    if key:
        return JobSpec(f"key-{key}", FUNCTIONS[0].digest, nature.encode() + key.encode(), Options(), key=key)
    is_steady = world.plan.max_clock_step_seconds < 60.0
    due = dice.random() if is_special else 1.0
    return JobSpec(
        name,
        dice.choice(FUNCTIONS).digest,
        nature.encode() + name.encode() + b"....",  # as long as it has items, at least
        options,
        after,
        inputs,
        delay=dice.uniform(0.1, 6.0) if due < 0.2 else 0.0,
        at=world.wall() + dice.uniform(-1.0, 5.0) if 0.2 <= due < 0.3 and is_steady else None,
        expires=dice.uniform(0.0, 8.0) if due > 0.8 and is_special else None,
        items=(1 if is_at_most_once else dice.randint(1, 5)) if dice.random() < tastes.chunks else 0,
    )
