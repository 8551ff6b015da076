"""A process that holds keys hides its memory: others of its own user can't read it, nor trace it, nor make it dump core.

Jobs run as the user of their worker, unless they are given another one. The kernel lets processes of one user read each
other's memory, environment and open files, unless a process says that it is not to be dumped (PR_SET_DUMPABLE, prctl(2));
then only root may, as `sudo py-spy` does. It is said by the master and by workers before they read a key, and by nurseries,
which hold a way to speak to their worker. An exec takes it back, so a nursery says it for itself, and its children unsay it.
"""

from __future__ import annotations

import contextlib

_PR_SET_DUMPABLE = 4


def hide_memory(*, is_hidden: bool = True) -> None:
    """Hide the memory of this process, and its environment and descriptors, from others of its user; Linux only."""
    # Not at the top: `import cluster` does without it.
    import ctypes

    with contextlib.suppress(AttributeError):  # another system
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0 if is_hidden else 1, 0, 0, 0)
