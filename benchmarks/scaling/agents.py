"""Simulated workers: many in a process, each with the real desk of a worker and its two connections to a real master.

    hearing and telling threads of each desk ──wake──► one queue ──► main thread: poll, "run", report; heartbeats when due

What a supervisor with one slot would say to its desk is said here, and a job takes no time. An agent's job is a moment of
the machine's clock, and what is noted is how long after it the lease was in an agent's hands.

Run as `python -m benchmarks.scaling.agents ADDRESS KEY COUNT NAME`. It prints "ready", and for each line that it reads it
prints what it has found since the last one; at the end of its input it leaves.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from cluster.core.records import Ending, Report
from cluster.errors import ClusterError, Refused
from cluster.wire.address import parse_address
from cluster.wire.calls import Welcome
from cluster.wire.keys import Role, load_key
from cluster.wire.messages import Health, Hello
from cluster.wire.proxy import DeskProxy, connect_desk
from cluster.wire.remote_work import RemoteWorkDesk

PATIENCE_SECONDS = 2.0  # as a worker's
REGISTER_SECONDS = 120.0
TURN_SECONDS = 0.05
NONE = pickle.dumps(None, 5)


class Findings:
    """What the agents of this process have seen; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: dict[str, list[float]] = {"lease": [], "beat": []}
        self._late = 0
        self._refused = 0

    def lease(self, seconds: float) -> None:
        with self._lock:
            self._new["lease"].append(seconds)

    def beat(self, seconds: float, *, is_late: bool) -> None:
        """A heartbeat was answered so long after it was sent."""
        with self._lock:
            self._new["beat"].append(seconds)
            self._late += is_late

    def refused(self) -> None:
        with self._lock:
            self._refused += 1

    def take(self) -> dict[str, Any]:
        """Everything since the last time."""
        with self._lock:
            taken: dict[str, Any] = {**self._new, "late": self._late, "refused": self._refused}
            self._new = {"lease": [], "beat": []}
            self._late = self._refused = 0
            return taken


class TimedCaller:
    """The proxy of a desk, with a watch on the heartbeats."""

    def __init__(self, proxy: DeskProxy, findings: Findings) -> None:
        self._proxy = proxy
        self._findings = findings
        self._renewed: float | None = None  # when the last answered heartbeat was sent
        self.timeout_seconds = 10.0

    def call(self, method: str, said: Struct, *, timeout: float = 30.0) -> Any:
        sent = time.monotonic()
        answer = self._proxy.call(method, said, timeout=timeout)
        if method in {"register", "heartbeat"}:
            now = time.monotonic()
            # The master counts from when it hears of us, so what counts is when each heartbeat was answered.
            is_late = self._renewed is not None and now - self._renewed > self.timeout_seconds
            self._renewed = sent
            if method == "heartbeat":
                self._findings.beat(now - sent, is_late=is_late)
        return answer

    def close(self) -> None:
        self._proxy.close()


class Agent:
    """One worker without children."""

    def __init__(self, name: str, caller: TimedCaller, woken: queue.SimpleQueue[Agent], findings: Findings) -> None:
        self._name = name
        self._caller = caller
        self._woken = woken
        self._findings = findings
        self.interval_seconds = 2.0
        self.desk = RemoteWorkDesk(caller, self._on_welcome)
        self.next_beat = 0.0
        self._join()

    def _join(self) -> None:
        self._id = f"{self._name}#{os.urandom(4).hex()}"
        hello = Hello(worker=self._id, name=self._name, host="simulated", pid=os.getpid(), slots=1)
        self.desk.register(hello, lambda: self._woken.put(self))

    def _on_welcome(self, welcome: Welcome) -> None:
        self.interval_seconds = welcome.heartbeat_interval_seconds
        self._caller.timeout_seconds = welcome.heartbeat_timeout_seconds

    def turn(self) -> None:
        """Take what has come, and say that it is done."""
        try:
            poll = self.desk.poll(self._id, 1)
            now = time.monotonic()
            for lease in poll.leases:
                (asked,), _ = pickle.loads(lease.args)  # noqa: S301 - our own jobs
                self._findings.lease(now - asked)
            if poll.leases:
                self.desk.report(self._id, [Report(lease.fence, Ending.SUCCEEDED, NONE) for lease in poll.leases])
                self.desk.poll(self._id, 1)  # the slot is free again
            if poll.stops:
                self.desk.stopped(self._id, [stop.fence for stop in poll.stops])
        except Refused:
            self._refused()

    def beat(self) -> None:
        try:
            self.desk.heartbeat(self._id, Health())
        except Refused:
            self._refused()

    def _refused(self) -> None:
        """Its leases may be void: what a supervisor would kill its children for."""
        self._findings.refused()
        self._join()


def run_agents(address: str, key_file: str, count: int, name: str) -> None:
    """Be so many workers until the end of the input."""
    at, key = parse_address(address), load_key(Path(key_file))
    woken: queue.SimpleQueue[Agent] = queue.SimpleQueue()
    findings = Findings()
    agents = []
    for number in range(count):
        proxy = connect_desk("work", at, Role.WORKER, key, patience_seconds=PATIENCE_SECONDS)
        agents.append(Agent(f"{name}-{number}", TimedCaller(proxy, findings), woken, findings))
    for agent in agents:
        if not agent.desk.wait_registered(REGISTER_SECONDS):
            sys.exit(f"an agent was not registered in {REGISTER_SECONDS:.0f} s: {agent.desk.trouble}")
    is_over = threading.Event()
    threading.Thread(target=answer, args=(findings, is_over), name="agents-answering", daemon=True).start()
    print("ready", flush=True)
    began = time.monotonic()
    for number, agent in enumerate(agents):
        # Spread over the interval, as workers that were started at any time are.
        agent.next_beat = began + agent.interval_seconds * number / count
        woken.put(agent)
    while not is_over.is_set():
        step(agents, woken)
    # Each would wait for an answer of its own; the master finds out that they are gone.
    os._exit(0)


def step(agents: list[Agent], woken: queue.SimpleQueue[Agent]) -> None:
    """One turn of whoever was woken, and the heartbeats that are due."""
    try:
        woken.get(timeout=TURN_SECONDS).turn()
        for _ in range(len(agents)):
            woken.get_nowait().turn()
    except queue.Empty:
        pass
    now = time.monotonic()
    for agent in agents:
        if agent.next_beat <= now:
            agent.next_beat += agent.interval_seconds
            agent.beat()


def answer(findings: Findings, is_over: threading.Event) -> None:
    for _ in sys.stdin:
        print(json.dumps(findings.take()), flush=True)
    is_over.set()


if __name__ == "__main__":
    try:
        run_agents(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
    except ClusterError as error:
        sys.exit(str(error))
