"""The scripts of a worker's desk, carried on by the thread that watches its line: over real sockets that break and dawdle."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from cluster.core.records import Ending, Report
from cluster.wire import remote_work
from cluster.wire.address import Address
from cluster.wire.calls import Tell, Work, WorkerArgs, WorkListen
from cluster.wire.keys import Role
from cluster.wire.manager import ClusterManager
from cluster.wire.messages import Poll
from cluster.wire.peer import Peer
from cluster.wire.proxy import connect_desk
from cluster.wire.remote_work import RemoteWorkDesk
from cluster.wire.reply import Reply
from cluster.wire.tls import TlsFiles
from tests.wire.certificates import Maker
from tests.wire.rig import KEYS, LOOPBACK
from tests.wire.test_remote_work import W1, Desk, done

DEADLINE_SECONDS = 20.0


class ServedDesk(Desk):
    """It notes what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Report] = []
        self.listens = 0
        self.left = False

    def listen(self, peer: Peer, said: WorkListen, _reply: Reply | None = None) -> Work:
        with self.changed:
            self.listens += 1
            self.changed.notify_all()
        return super().listen(peer, said)

    def tell(self, peer: Peer, said: Tell) -> None:
        super().tell(peer, said)
        with self.changed:
            self.told += said.reports
            self.changed.notify_all()

    def leave(self, peer: Peer, said: WorkerArgs) -> None:
        super().leave(peer, said)
        self.left = True

    def put_long(self, fence: int, size: int) -> None:
        self.put(fence)
        with self.changed:
            work = self.works[-1]
            long = tuple(structs.replace(one, args=b"x" * size) for one in work.leases)
            self.works[-1] = Work(work.mark, long)

    def wait(self, until: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(until, DEADLINE_SECONDS)


class Supervisor:
    """What a supervisor's thread does with a desk and its line."""

    def __init__(self, desk: RemoteWorkDesk, line: Any) -> None:
        self.desk, self.line = desk, line
        self._poller = select.poll()
        self._poller.register(line.fileno(), select.POLLIN)

    def turn(self) -> Poll:
        if self._poller.poll(20):
            self.line.hear()
        found = self.desk.poll("w#1", 4)
        self.line.speak()
        return found

    def wait_readable(self) -> None:
        assert self._poller.poll(DEADLINE_SECONDS * 1000)

    def turn_until(self, until: Callable[[Poll], object]) -> Poll:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not until(found := self.turn()):
            assert time.monotonic() < deadline, "it never came"
        return found


class Relay:
    """Passes bytes on, both ways, until it is to hold back what the master says, or to cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._ends: list[socket.socket] = []
        self._changed = threading.Condition()
        self._most: int | None = None  # so many bytes the master may still say on each connection
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_after(self, most: int | None) -> None:
        with self._changed:
            self._most = most
            self._changed.notify_all()

    def cut(self) -> None:
        with self._changed:
            ends, self._ends = self._ends, []
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            self._most = None  # what was held back finds no way any more
            self._changed.notify_all()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            with self._changed:
                self._ends += [near, far]
            threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_held: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if is_held:
                    with self._changed:
                        if self._most is not None:
                            sink.sendall(data[: self._most])
                            data = data[self._most :]
                            self._changed.wait_for(lambda: self._most is None, DEADLINE_SECONDS)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Rig:
    def __init__(self, served: ServedDesk, supervisor: Supervisor, relay: Relay) -> None:
        self.served, self.supervisor, self.relay = served, supervisor, relay
        self.desk, self.line = supervisor.desk, supervisor.line

    def wait_lent(self) -> None:
        """Turn until both scripts are carried on by nobody but the supervisor."""
        self.supervisor.turn_until(lambda _: all(strand.is_lent for strand in self.line.strands))


@contextlib.contextmanager
def a_rig(master: TlsFiles | None = None, worker: TlsFiles | None = None) -> Iterator[Rig]:
    served = ServedDesk()
    server = ClusterManager(LOOPBACK, keys=KEYS, desks={"work": served}, tls=master).get_server()
    server.start()
    relay = Relay(server.address.port)
    caller = connect_desk("work", relay.address, Role.WORKER, KEYS[Role.WORKER], patience_seconds=5.0, tls=worker)
    threads = {thread for thread in threading.enumerate() if thread.name.startswith("cluster-")}
    desk = RemoteWorkDesk(caller)
    line = desk.line(caller)
    try:
        supervisor = Supervisor(desk, line)
        desk.register(W1, lambda: None)
        assert desk.wait_registered(DEADLINE_SECONDS)
        yield Rig(served, supervisor, relay)
    finally:
        desk.close()
        relay.close()
        server.stop(deadline_seconds=0.0)
    left = {thread for thread in threading.enumerate() if thread.name in {"cluster-hearing", "cluster-telling"}}
    assert left <= threads, "threads left"


@pytest.fixture(params=["plain", "tls"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "plain":
        with a_rig() as made:
            yield made
        return
    maker = Maker(tmp_path / "lab")
    with a_rig(maker.issue("master", "m"), maker.issue("worker", "w")) as made:
        yield made


def fences(poll: Poll) -> list[int]:
    return [lease.fence for lease in poll.leases]


def test_what_is_said_goes_out_at_the_turn_s_end_and_by_no_other_thread(rig: Rig) -> None:
    rig.served.put(7)
    rig.supervisor.turn_until(lambda poll: fences(poll) == [7])
    rig.wait_lent()
    telling = rig.line.strands[1]
    rig.desk.report("w#1", [done(7)])

    assert telling.is_lent
    assert not rig.served.told
    rig.line.speak()

    rig.served.wait(lambda: [report.fence for report in rig.served.told] == [7])
    assert telling.is_lent
    rig.supervisor.turn_until(lambda _: rig.desk._untold.is_empty)


@pytest.mark.parametrize("size", [10_000, 40_000, 3_000_000])
def test_an_answer_of_any_length_arrives(rig: Rig, size: int) -> None:
    rig.wait_lent()

    rig.served.put_long(1, size)

    found = rig.supervisor.turn_until(lambda poll: poll.leases)
    assert [len(lease.args) for lease in found.leases] == [size]
    rig.wait_lent()


@pytest.mark.parametrize("most", [1, 3, 4, 60])
def test_half_an_answer_holds_nobody_up_and_its_rest_completes_it(rig: Rig, most: int) -> None:
    rig.wait_lent()
    rig.relay.hold_after(most)
    rig.served.put(1)
    rig.supervisor.wait_readable()

    started = time.monotonic()
    for _ in range(10):
        assert not rig.supervisor.turn().leases
    assert time.monotonic() - started < DEADLINE_SECONDS / 2  # it would have waited for the rest
    rig.relay.hold_after(None)

    rig.supervisor.turn_until(lambda poll: fences(poll) == [1])


def test_a_call_that_was_cut_is_made_again(rig: Rig) -> None:
    rig.served.put(1)
    rig.supervisor.turn_until(lambda poll: fences(poll) == [1])
    rig.wait_lent()
    rig.relay.hold_after(0)
    rig.desk.report("w#1", [done(1)])
    rig.line.speak()
    rig.served.wait(lambda: rig.served.told)

    rig.relay.cut()

    rig.supervisor.turn_until(lambda _: rig.desk._untold.is_empty)
    assert [report.fence for report in rig.served.told] == [1, 1]
    rig.served.put(2)
    rig.supervisor.turn_until(lambda poll: fences(poll) == [2])


def test_a_connection_cut_while_nothing_was_asked_is_made_anew(rig: Rig) -> None:
    rig.served.put(1)
    rig.supervisor.turn_until(lambda poll: fences(poll) == [1])
    rig.desk.report("w#1", [done(1)])
    rig.supervisor.turn_until(lambda _: rig.desk._untold.is_empty)
    rig.wait_lent()
    listens = rig.served.listens

    rig.relay.cut()
    rig.supervisor.turn_until(lambda _: not rig.line.strands[1].is_lent)  # its thread has to see to that
    # By then the telling thread, which had less to do, waits for a reason to speak.
    rig.supervisor.turn_until(lambda _: rig.served.listens > listens + 1)
    rig.desk.report("w#1", [Report(1, Ending.SUCCEEDED, b"2")])

    rig.supervisor.turn_until(lambda _: len(rig.served.told) > 1)
    rig.wait_lent()


def test_a_frozen_master_s_answer_is_overdue_and_asked_for_on_another_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_work, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(remote_work, "LISTEN_SECONDS", 0.2)
    with a_rig() as rig:
        rig.wait_lent()
        rig.relay.hold_after(2)  # of each frame, and then nothing
        rig.served.put(1)
        rig.supervisor.turn_until(lambda _: not rig.line.strands[0].is_lent)

        rig.relay.cut()

        rig.supervisor.turn_until(lambda poll: fences(poll) == [1])


def test_without_the_supervisor_the_threads_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_work, "CALL_SECONDS", 0.1)
    monkeypatch.setattr(remote_work, "LISTEN_SECONDS", 0.1)
    with a_rig() as rig:
        rig.wait_lent()
        before = rig.served.listens

        rig.served.wait(lambda: rig.served.listens > before + 3)  # and nobody hears or speaks


def test_leaving_tells_the_rest_though_nobody_turns(rig: Rig) -> None:
    rig.served.put(1)
    rig.supervisor.turn_until(lambda poll: fences(poll) == [1])
    rig.wait_lent()
    rig.desk.report("w#1", [done(1)])

    rig.desk.leave("w#1")

    assert [report.fence for report in rig.served.told] == [1]
    assert rig.served.left


def test_a_report_that_is_refused_is_heard_of_and_the_worker_registers_again(rig: Rig) -> None:
    rig.wait_lent()
    with rig.served.changed:
        rig.served.known.clear()
    rig.desk.report("w#1", [done(1)])

    rig.supervisor.turn_until(lambda _: rig.served.told)
