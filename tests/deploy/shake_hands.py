"""One TLS handshake with both sides verifying, in whatever Python runs this: a program of the standard library alone.

`python shake_hands.py '{"ca": ..., "crl": ..., "master": [CERT, KEY], "peer": [CERT, KEY], "host": ...}'` prints what
each side saw, or why it refused, as JSON.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from typing import Any

TIMEOUT_SECONDS = 30.0


def context_of(protocol: int, asked: dict[str, Any], files: list[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # What `ssl.create_default_context()` of 3.13 sets by itself.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(asked["ca"])
    if asked.get("crl"):
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        context.load_verify_locations(asked["crl"])
    context.load_cert_chain(*files)
    return context


def serve(asked: dict[str, Any], ours: socket.socket, told: dict[str, Any]) -> None:
    try:
        with context_of(ssl.PROTOCOL_TLS_SERVER, asked, asked["master"]).wrap_socket(ours, server_side=True) as secured:
            told["version"] = secured.version()
            told["peer"] = secured.getpeercert()
            secured.sendall(b"welcome")
    except OSError as error:
        told["server"] = str(error)


def main(text: str) -> None:
    asked = json.loads(text)
    ours, theirs = socket.socketpair()
    told: dict[str, Any] = {"python": list(sys.version_info[:2])}
    told["default_is_strict"] = bool(ssl.create_default_context().verify_flags & ssl.VERIFY_X509_STRICT)
    for end in (ours, theirs):
        end.settimeout(TIMEOUT_SECONDS)
    server = threading.Thread(target=serve, args=(asked, ours, told))
    server.start()
    try:
        context = context_of(ssl.PROTOCOL_TLS_CLIENT, asked, asked["peer"])
        with context.wrap_socket(theirs, server_hostname=asked["host"]) as secured:
            told["master"] = secured.getpeercert()
            told["heard"] = secured.recv(64).decode()
    except OSError as error:
        told["client"] = str(error)
        theirs.close()
    server.join()
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
