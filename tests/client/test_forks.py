from __future__ import annotations

import os
import subprocess
import sys
import textwrap

# In a program of its own: a fork of the test process would be one of pytest's threads and files too.
SCRIPT = """
    import concurrent.futures, os, sys, warnings
    warnings.simplefilter("ignore")  # newer Pythons warn of forks with threads, which is the point here
    from cluster.client import default
    from cluster.client.handle import Cluster
    from cluster.errors import MasterUnavailable
    from tests.client.desk import InlineDesk

    desk = InlineDesk()
    c = Cluster(desk, owns_workers=True, on_close=lambda: print("closed by", os.getpid(), flush=True))
    default.use(c)
    done = c.submit(pow, (2, 3)); concurrent.futures.wait([done])
    desk.gate.clear()
    pending = c.submit(pow, (2, 4)).accepted()
    locks = (c._session._lock, c._session._outbox._sending, c._closing, default._lock)
    for lock in locks: lock.acquire()  # as if another thread held them all at the moment of the fork
    child = os.fork()
    if child == 0:
        complaints = []
        for use in (
            lambda: c.submit(pow, (2, 3)), lambda: c.stats(), lambda: c.map(abs, [1]), lambda: pending.result(),
            lambda: pending.cancel(), lambda: pending.add_done_callback(print), lambda: default.submit(pow, (2, 3)),
            lambda: concurrent.futures.wait([pending]),
        ):
            try:
                use()
            except MasterUnavailable as error:
                complaints.append("open one of its own here (cluster.local(...))" in str(error))
        print("child", len(complaints), all(complaints), done.result(), flush=True)
        c.close()
        sys.stdout.flush()
        os._exit(0)
    for lock in locks: lock.release()
    _, status = os.waitpid(child, 0)
    desk.gate.set()
    print("parent", status, pending.result(), flush=True)
    c.close()
"""


def test_a_forked_child_may_use_nothing_of_the_handle_and_is_told_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ,
    )

    lines = done.stdout.splitlines()
    assert lines[:2] == ["child 8 True 8", "parent 0 16"], done.stderr
    assert len(lines) == 3, "only the parent closes"
