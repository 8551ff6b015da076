"""Calls and answers as msgpack, validated by type on the way in: data, never code.

    request  [id, desk, method, arguments]      answer  [id, answer, null]   or   [id, null, fault]

The envelope is read first and what it carries stays raw, until the table of calls says what it must be. So a call that
is not in the table costs nothing to refuse, and one whose arguments don't fit never reaches a desk.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import msgspec
from msgspec import Raw, Struct

from cluster.errors import ClusterError, Refused
from cluster.wire.calls import CALLS, Call
from cluster.wire.connection import MAX_FRAME_BYTES
from cluster.wire.faults import Fault, rebuild

_MIB = 1024 * 1024
# What a decoder says of bytes that some stranger chose: not msgpack, not the type, bad UTF-8, nested without end.
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class ProtocolError(ConnectionError):
    """What came is no message of this protocol, or not the one that was due. The connection is to be closed."""


class _Outgoing(Struct, frozen=True, array_like=True):
    request: str
    desk: str
    method: str
    said: Any


class Request(Struct, frozen=True, array_like=True):
    """A call as it arrives: its arguments are still to be read."""

    request: str
    desk: str
    method: str
    said: Raw


class _Answer(Struct, frozen=True, array_like=True):
    request: str
    body: Any
    fault: Fault | None = None


class Answer(Struct, frozen=True, array_like=True):
    """An answer as it arrives: its body is still to be read."""

    request: str
    body: Raw
    fault: Fault | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
# While one thread reads a record's annotations, msgspec shows another one the half-read type, and the process dies of it.
_reading_types = threading.Lock()


# --- the caller's side ----------------------------------------------------------------------------------------------


def encode_request(request: str, desk: str, method: str, said: Struct) -> bytes:
    """A call's frame. Raises `Refused` if it is longer than a frame may be."""
    frame = _encode(_Outgoing(request, desk, method, said))
    if len(frame) > MAX_FRAME_BYTES:
        raise Refused(
            f"{desk}.{method} would send {len(frame) // _MIB} MiB at once, at most {MAX_FRAME_BYTES // _MIB} are taken; "
            "submit fewer or smaller arguments, or put them in a file that the workers can read"
        )
    return frame


def open_answer(frame: memoryview, request: str) -> Answer:
    """The answer to this request. Raises `ProtocolError` if it is none, or another request's."""
    try:
        answer = _decode_answer(frame)
    except _UNREADABLE as error:
        raise ProtocolError(f"the master's answer is not understood: {error}") from None
    if answer.request != request:
        raise ProtocolError("the master answered another request than the one that was sent")
    return answer


def read_answer(answer: Answer, desk: str, method: str) -> Any:
    """What the call returned; raises what it raised."""
    if answer.fault is not None:
        raise rebuild(answer.fault)
    try:
        return _answer_decoder(desk, method)(answer.body)
    except _UNREADABLE as error:
        raise ClusterError(
            f"the master's answer to {desk}.{method} is not what this version expects ({error}); "
            "install the same cluster-kit on both sides"
        ) from None


# --- the master's side ----------------------------------------------------------------------------------------------


def open_request(frame: memoryview) -> Request:
    """A call as it stands in its frame. Raises `ProtocolError` if the frame holds none."""
    try:
        return _decode_request(frame)
    except _UNREADABLE as error:
        raise ProtocolError(f"it sent no call: {error}") from None


def read_arguments(request: Request) -> Any:
    """The call's arguments, of its type. Raises `Refused` if they don't fit."""
    try:
        return _argument_decoder(request.desk, request.method)(request.said)
    except _UNREADABLE as error:
        raise Refused(f"{request.desk}.{request.method}: its arguments are not what they must be: {error}") from None


def encode_answer(request: Request, body: object) -> bytes:
    """The frame that answers a call. Raises `Refused` if it is longer than a frame may be."""
    frame = _encode(_Answer(request.request, body))
    if len(frame) > MAX_FRAME_BYTES:
        raise Refused(
            f"the answer to {request.desk}.{request.method} has {len(frame) // _MIB} MiB, at most "
            f"{MAX_FRAME_BYTES // _MIB} are sent; ask for less at a time"
        )
    return frame


def encode_fault(request: Request, fault: Fault) -> bytes:
    """The frame that tells of a call's failure."""
    return _encode(_Answer(request.request, None, fault))


# --- the table of calls, made ready ---------------------------------------------------------------------------------


def call_of(desk: str, method: str) -> Call | None:
    """The table's entry, or None: then there is no such call."""
    return CALLS.get((desk, method))


def make_ready() -> None:
    """Read the types of all calls now. They are annotations, so reading one executes its text: a server does that before
    it hears anybody, and then never again.
    """
    for desk, method in CALLS:
        _argument_decoder(desk, method)
        _answer_decoder(desk, method)


@functools.cache
def _argument_decoder(desk: str, method: str) -> Any:
    with _reading_types:
        return msgspec.msgpack.Decoder(CALLS[desk, method].args).decode


@functools.cache
def _answer_decoder(desk: str, method: str) -> Any:
    with _reading_types:
        return msgspec.msgpack.Decoder(CALLS[desk, method].answer).decode
