"""A job that is killed right after its effect, and runs again: the effect happens once.

A job may run more than once, and so may what it does outside. The kit commits one outcome of it; the outside system must
say which effect is the first. This one is a SQLite file with two accounts, and three things keep it right:

- `key=` makes two submissions of one order one job,
- a row for each job, written in the transaction of the effect itself, makes two attempts one effect,
- the fence, a number that grows from lease to lease, keeps an attempt that wakes up late from writing over a later one.
"""

import contextlib
import os
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cluster

SCHEMA = (
    "CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE effects (job TEXT PRIMARY KEY, receipt TEXT NOT NULL)",
    "CREATE TABLE status (topic TEXT PRIMARY KEY, text TEXT NOT NULL, fence INTEGER NOT NULL)",
    "INSERT INTO accounts VALUES ('ana', 100), ('ben', 0)",
)


@contextlib.contextmanager
def transaction(database: Path) -> Iterator[sqlite3.Connection]:
    """All that is done in the block is durable, or nothing; one at a time."""
    with contextlib.closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as bank, bank:
        bank.execute("BEGIN IMMEDIATE")
        yield bank


def pay(database: Path, payer: str, payee: str, amount: int) -> str:
    """Move money once, however often this runs; what it answers is always the receipt of that one time."""
    job = cluster.current_job()
    with transaction(database) as bank:
        earlier = bank.execute("SELECT receipt FROM effects WHERE job = ?", (job.id,)).fetchone()
        if earlier is not None:
            return str(earlier[0])
        receipt = f"{payer} paid {payee} {amount} in attempt {job.attempt}"
        bank.execute("UPDATE accounts SET balance = balance - ? WHERE name = ?", (amount, payer))
        bank.execute("UPDATE accounts SET balance = balance + ? WHERE name = ?", (amount, payee))
        bank.execute("INSERT INTO effects VALUES (?, ?)", (job.id, receipt))
    if job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # the worst moment: it is paid, and nobody has been told
    return receipt


def write_status(database: Path, text: str, fence: int) -> bool:
    """Set what may be overwritten, unless a later attempt has done so already."""
    with transaction(database) as bank:
        written = bank.execute(
            "INSERT INTO status VALUES ('report', ?, ?) "
            "ON CONFLICT (topic) DO UPDATE SET text = excluded.text, fence = excluded.fence "
            "WHERE excluded.fence > status.fence",
            (text, fence),
        )
        return written.rowcount == 1


def report(database: Path, text: str) -> tuple[bool, int]:
    fence = cluster.current_job().fence
    return write_status(database, text, fence), fence


with tempfile.TemporaryDirectory() as folder, cluster.local(slots=1) as c:
    database = Path(folder, "bank.db")
    with transaction(database) as bank:
        for statement in SCHEMA:
            bank.execute(statement)

    # Two submissions, as by a program that was not sure whether its first one had arrived.
    orders = [c.submit(pay, (database, "ana", "ben", 30), key="order 4711") for _ in range(2)]
    receipts = [order.result() for order in orders]
    print(receipts[0], "- and the job was tried", orders[0].refresh().attempts, "times")
    assert receipts == ["ana paid ben 30 in attempt 1"] * 2
    assert orders[0].id == orders[1].id
    assert orders[0].attempts == 2

    with transaction(database) as bank:
        balances = dict(bank.execute("SELECT name, balance FROM accounts"))
    print(balances)
    assert balances == {"ana": 70, "ben": 30}

    # An attempt that was thought lost, and wakes up after the one that took its place, is told by its fence.
    (first, early), (second, late) = (c.submit(report, (database, text)).result() for text in ("old", "new"))
    assert first
    assert second
    assert early < late
    assert not write_status(database, "older than what is there", early)
    with transaction(database) as bank:
        assert bank.execute("SELECT text FROM status").fetchone() == ("new",)
