"""How the processes of a cluster write their logs: lines of text for people, or a JSON object in each line for programs.

Every message is worded as an event with fields, `"died part=%s, again in %.1f s: %s"`. The JSON form takes the fields out
of the template, so that whoever logs need not know which form is wanted, and a value keeps its type. Also what would
otherwise go to standard error past the log, an uncaught exception or a warning, becomes a message, in either form.

Much of a message may be a peer's or a job's choice: names, ids, the texts of errors. In either form one message is one
line, and only a message begins a line with its time: nobody can write another's line by what it is called.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from cluster.errors import Refused

LOG = logging.getLogger("cluster")

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# A placeholder of a message, with the name of the field before it if there is one.
_PLACE = re.compile(r"(?:(\w+)=)?%(?:%|[-+ #0]*\d*(?:\.\d+)?[a-zA-Z])")


def set_up_log(level: str, form: str = "text") -> None:
    """Have this process log to standard error. Raises `Refused` for a level or a form that there is not."""
    if level not in LEVELS:
        raise Refused(f"no log level is called {level!r}; write one of {', '.join(LEVELS)}")
    if form not in FORMATS:
        raise Refused(f"no log format is called {form!r}; write one of {', '.join(FORMATS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines(_TEXT))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_of_thread


def tell_mistake(who: str, error: Exception) -> None:
    """Why this process can't do what it is told, in one sentence, for whoever started it."""
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        LOG.error("%s: %s", who, error)
    else:
        sys.stderr.write(in_one_line(f"{who}: {error}") + "\n")


def message_of(line: str) -> str:
    """What a line of a log says, whichever form it has."""
    if line.startswith("{"):
        import json  # as below

        try:
            found = json.loads(line)
        except ValueError:
            return line
        if isinstance(found, dict):
            return str(found.get("message", line))
    return line


def in_one_line(text: str) -> str:
    """The text as it may stand in a log or on a screen: what is not printable is escaped, ends of lines too."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class TextLines(logging.Formatter):
    """Makes one line of text of a record; a traceback follows, each of its lines set in."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The line."""
        return in_one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802, ANN401 - the library's name and type
        """The traceback, which ends with whatever text the exception has."""
        return "\n".join(f"  {in_one_line(line)}" for line in super().formatException(ei).splitlines())


class JsonLines(logging.Formatter):
    """Makes one line of JSON of a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The object: time, level, logger, event, fields, message, and the exception's traceback if there is one."""
        import json  # at the top it would be loaded by every program that has a cluster in it

        message = record.getMessage()
        event, fields = _split(record, message)
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
            "fields": fields,
            "message": message,
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)  # ASCII: half a surrogate pair from a file's name can't break the line


def _split(record: logging.LogRecord, message: str) -> tuple[str, dict[str, object]]:
    """The event, which is what stands before the first field, and the fields."""
    template, args = str(record.msg), record.args
    if not isinstance(args, tuple):
        return message, {}
    fields: dict[str, object] = {}
    event = message
    number = 0
    for place in _PLACE.finditer(template):
        if place[0].endswith("%%"):
            continue
        if number < len(args) and place[1]:
            if not fields:
                event = (template[: place.start()] % args[:number]).rstrip(" :;,(") or message
            fields[place[1]] = _plain(args[number])
        number += 1
    return event, fields


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        LOG.critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_of_thread(said: threading.ExceptHookArgs) -> None:
    if said.exc_value is not None and not issubclass(said.exc_type, SystemExit):
        name = said.thread.name if said.thread is not None else ""
        LOG.critical(
            "uncaught exception: thread=%s", name, exc_info=(said.exc_type, said.exc_value, said.exc_traceback)
        )
