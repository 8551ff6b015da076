"""Pi by throwing darts: 64 blocks of random numbers, each with its own reproducible seed.

Needs numpy. `map` groups blocks into chunks by how long they take; nothing is to be tuned.
"""

import math

import numpy as np

import cluster

BLOCKS = 64
DARTS_PER_BLOCK = 250_000


def darts_in_circle(seed: np.random.SeedSequence) -> int:
    random = np.random.default_rng(seed)
    x, y = random.random((2, DARTS_PER_BLOCK))
    return int(np.count_nonzero(x * x + y * y <= 1.0))


with cluster.local() as c:
    # `spawn` gives each block a stream of its own, so the answer is the same however blocks fall on processes.
    seeds = np.random.SeedSequence(2026).spawn(BLOCKS)
    hits = sum(c.map(darts_in_circle, seeds))

darts = BLOCKS * DARTS_PER_BLOCK
estimate = 4 * hits / darts
# The standard error of the estimate; five of them are missed once in two million times, and the seed is fixed.
standard_error = 4 * math.sqrt(math.pi / 4 * (1 - math.pi / 4) / darts)
print(f"pi = {estimate:.5f} +- {standard_error:.5f} from {darts:,} darts")
assert abs(estimate - math.pi) < 5 * standard_error
