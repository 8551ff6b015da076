"""A program that stands in for `python -m cluster master|worker`: the same ways to start, to get ready and to die.

What it shall do is said by files in the folder of its configuration, `NAME.wish`, at its start:

    (none)       get ready, live, end at SIGTERM
    mistake      say one sentence, end with status 2
    crash        say something, end with status 1 before it is ready
    silent       never get ready
    stubborn     get ready, ignore SIGTERM
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path


def main() -> int:
    arguments = sys.argv[1:]
    name = arguments[arguments.index("--name") + 1] if arguments[0] == "worker" else "master"
    ready = int(arguments[arguments.index("--ready-fd") + 1])
    wish = Path(f"{name}.wish").read_text().strip() if Path(f"{name}.wish").exists() else ""
    print(f"hello from {name} {os.getpid()}", flush=True)
    if wish == "mistake":
        print("cluster: port 7601 is in use; choose another one", file=sys.stderr)
        return 2
    if wish == "crash":
        print("cluster: it went wrong", file=sys.stderr)
        return 1
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if wish == "stubborn" else over.set())
    if wish != "silent":
        os.write(ready, f"ready {name}\n".encode())
        os.close(ready)
    while not over.wait(0.05):
        pass
    print(f"goodbye from {name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
