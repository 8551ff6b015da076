"""A TCP proxy with faults that are switched on and off while connections run: toxiproxy's vocabulary in pure Python.

    connections ──► listener ──► [up: client to server]   ──► target
                             ◄── [down: server to client] ◄──

One thread with an event loop of its own carries the bytes; `set_fault`, `cut` and the rest may be called from any other
and return once the fault is in force. Each direction of a connection is a reader, a bounded queue and a writer, so that
latency delays bytes without limiting how many are under way, and a slow direction pushes back on its sender.

The faults of a direction (`Fault`): `latency` and `jitter`, `bandwidth`, `slice_bytes` (many small pieces), and two ways
of not arriving: held bytes arrive once the fault is over, as after a link that was down for less than TCP's patience;
swallowed ones never do, as with a peer that lost its memory of the connection, so such a connection is reset when the
fault ends. `timeout` holds too, and closes after so long. The events: `drop` closes every connection, `reset` sends RST,
`refuse` closes new ones. A partition is `HELD` both ways, half-open is `SWALLOWED` one way.

    python -m tests.chaos.proxy LISTEN TARGET [...]     a faultless forwarder, for a network namespace of its own
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

CHUNK_BYTES = 65536
# So much of one direction may be under way in a latency; beyond it the sender is pushed back.
MAX_QUEUED = 64
# A limited rate is waited for piece by piece, each at most so long.
MAX_PIECE_SECONDS = 0.05
CONNECT_SECONDS = 10.0
START_SECONDS = 10.0


class Way(Enum):
    """A direction."""

    UP = "up"  # from who connected to the target
    DOWN = "down"


class Passing(Enum):
    """What becomes of the bytes of a direction."""

    THROUGH = "through"
    HELD = "held"
    SWALLOWED = "swallowed"


@dataclass(frozen=True)
class Fault:
    """What is wrong with one direction. The default is nothing."""

    passing: Passing = Passing.THROUGH
    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    bandwidth: float = 0.0  # bytes a second; 0: no limit
    slice_bytes: int = 0  # at most so many in one piece; 0: as they come
    timeout_seconds: float = 0.0  # hold, and close after so long; 0: no


HEALTHY = Fault()


@dataclass
class Counts:
    """What the proxy has done. Written by its thread."""

    accepted: int = 0
    refused: int = 0
    closed: int = 0  # by a drop, a timeout or a reset
    bytes: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(Way, 0))
    swallowed: int = 0


class _Link:
    """One connection through the proxy. Belongs to the loop's thread."""

    def __init__(self, streams: dict[Way, tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        self.streams = streams  # by direction: where bytes come from, where they go
        self.has_lost_bytes = False
        self.task: asyncio.Task[None] | None = None

    def close(self) -> None:
        for _, writer in self.streams.values():
            writer.close()
        self._end()

    def reset(self) -> None:
        """End both sides with RST instead of FIN."""
        for _, writer in self.streams.values():
            with contextlib.suppress(OSError):
                taken: socket.socket = writer.get_extra_info("socket")
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._end()

    def _end(self) -> None:
        if self.task is not None:
            self.task.cancel()


class FaultProxy:
    """A proxy in front of one target. A context manager; `address` is where to connect."""

    def __init__(self, target: tuple[str, int], listen: tuple[str, int] = ("127.0.0.1", 0), *, seed: int = 0) -> None:
        self.target = target
        self.address = listen
        self.counts = Counts()
        self._faults = dict.fromkeys(Way, HEALTHY)
        self._is_refusing = False
        self._changed = asyncio.Event()  # replaced at each change, so that whoever waits looks again
        self._links: set[_Link] = set()
        self._waiting: set[asyncio.StreamWriter] = set()  # accepted, and not connected to the target yet
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="chaos-proxy", daemon=True)
        self._is_up = threading.Event()
        self._trouble: BaseException | None = None

    # --- from any thread --------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen. Raises what the bind raised."""
        self._thread.start()
        if not self._is_up.wait(START_SECONDS):
            raise TimeoutError("the proxy did not come up")
        if self._trouble is not None:
            raise self._trouble
        return self

    def stop(self) -> None:
        """Close everything; may be called twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(START_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def set_fault(self, fault: Fault, *ways: Way) -> None:
        """Put a fault into force, in both directions if none is named; `HEALTHY` ends it."""
        self._call(lambda: self._set(fault, ways or tuple(Way)))

    def partition(self) -> None:
        """Nothing arrives either way until `heal`; then it does."""
        self.set_fault(Fault(Passing.HELD))

    def half_open(self, way: Way) -> None:
        """What is sent this way is taken and lost until `heal`; then the connection is reset."""
        self.set_fault(Fault(Passing.SWALLOWED), way)

    def refuse(self) -> None:
        """Close new connections at once, until `heal`."""
        self._call(lambda: setattr(self, "_is_refusing", True))

    def heal(self) -> None:
        """End every fault."""
        self._call(self._heal)

    def drop(self) -> None:
        """Close every connection."""
        self._call(lambda: self._end_all(_Link.close))

    def reset(self) -> None:
        """Reset every connection."""
        self._call(lambda: self._end_all(_Link.reset))

    @property
    def connections(self) -> int:
        """How many run."""
        return len(self._links)

    def _call(self, change: Callable[[], Any]) -> None:
        done = threading.Event()

        def carry_out() -> None:
            change()
            done.set()

        self._loop.call_soon_threadsafe(carry_out)
        if not done.wait(START_SECONDS):
            raise TimeoutError("the proxy's thread does not answer")

    # --- the loop's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            self._server = loop.run_until_complete(asyncio.start_server(self._accept, *self.address))
            self.address = self._server.sockets[0].getsockname()[:2]
        except OSError as error:
            self._trouble = error
            self._is_up.set()
            loop.close()
            return
        self._is_up.set()
        loop.run_forever()
        self._server.close()
        self._end_all(_Link.close)
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()

    def _set(self, fault: Fault, ways: tuple[Way, ...]) -> None:
        was_swallowing = any(each.passing is Passing.SWALLOWED for each in self._faults.values())
        self._faults.update(dict.fromkeys(ways, fault))
        if was_swallowing and all(each.passing is not Passing.SWALLOWED for each in self._faults.values()):
            for link in [link for link in self._links if link.has_lost_bytes]:
                self.counts.closed += 1
                link.reset()
        self._changed.set()
        self._changed = asyncio.Event()

    def _heal(self) -> None:
        self._is_refusing = False
        self._set(HEALTHY, tuple(Way))

    def _end_all(self, end: Callable[[_Link], None]) -> None:
        for link in list(self._links):
            self.counts.closed += 1
            end(link)
        for writer in self._waiting:
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            self.counts.refused += 1
            writer.close()
            return
        self._waiting.add(writer)
        try:
            # A SYN is lost like any other bytes: nobody answers for the target while nothing comes through.
            await self._pass(Way.UP)
            async with asyncio.timeout(CONNECT_SECONDS):
                there, back = await asyncio.open_connection(*self.target)
        except (OSError, TimeoutError):
            writer.close()
            return
        finally:
            self._waiting.discard(writer)
        self.counts.accepted += 1
        link = _Link({Way.UP: (reader, back), Way.DOWN: (there, writer)})
        self._links.add(link)
        link.task = asyncio.create_task(self._carry(link))
        link.task.add_done_callback(lambda _: self._links.discard(link))

    async def _carry(self, link: _Link) -> None:
        # The first direction to break ends both; an end of input in one leaves the other open, as TCP has it.
        parts = [asyncio.create_task(part) for way in Way for part in self._parts(link, way)]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            for _, writer in link.streams.values():
                writer.close()

    def _parts(self, link: _Link, way: Way) -> tuple[Any, Any]:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_QUEUED)
        reader, writer = link.streams[way]
        return self._read(way, reader, queue), self._write(link, way, queue, writer)

    async def _read(self, way: Way, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            data = await reader.read(CHUNK_BYTES)
            fault = self._faults[way]
            wait = max(0.0, fault.latency_seconds + self._random.uniform(-1, 1) * fault.jitter_seconds)
            await queue.put((self._loop.time() + wait, data))
            if not data:
                return

    async def _write(
        self, link: _Link, way: Way, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._pass(way)
            fault = self._faults[way]
            if fault.passing is Passing.SWALLOWED:
                link.has_lost_bytes = True
                self.counts.swallowed += len(data)
                continue
            if not data:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write_eof()
                return
            while data:
                fault = self._faults[way]  # a long piece on a slow line may see it healed
                size = fault.slice_bytes or len(data)
                if fault.bandwidth:
                    size = min(size, max(1, int(fault.bandwidth * MAX_PIECE_SECONDS)))
                piece, data = data[:size], data[size:]
                writer.write(piece)
                await writer.drain()
                self.counts.bytes[way] += len(piece)
                await asyncio.sleep(len(piece) / fault.bandwidth if fault.bandwidth else 0)

    async def _pass(self, way: Way) -> None:
        """Return once bytes of this direction may go on. A `timeout` that runs out ends the connection."""
        while True:
            fault, changed = self._faults[way], self._changed
            if fault.timeout_seconds:
                try:
                    async with asyncio.timeout(fault.timeout_seconds):
                        await changed.wait()
                except TimeoutError:
                    self.counts.closed += 1
                    raise ConnectionError("held until its timeout") from None
            elif fault.passing is Passing.HELD:
                await changed.wait()
            else:
                return


def main(arguments: list[str]) -> int:
    """Forward each LISTEN to the TARGET after it, both HOST:PORT, until a signal."""
    ends = [(host, int(port)) for host, _, port in (each.rpartition(":") for each in arguments)]
    proxies = [FaultProxy(target, listen).start() for listen, target in zip(ends[::2], ends[1::2], strict=True)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for proxy in proxies:
        proxy._thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
