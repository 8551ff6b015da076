"""Replies that take note of what they are given, and of who gave it."""

from __future__ import annotations

import threading

from cluster.wire.reply import Reply


class NotedReply(Reply):
    """No connection: what is given stays here."""

    def __init__(self) -> None:
        self.is_given = False
        self.given: list[object] = []
        self.giver: threading.Thread | None = None

    def give(self, answer: object) -> None:
        self.given.append(answer)
        self.giver = threading.current_thread()
        self.is_given = True
