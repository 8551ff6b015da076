"""The script that a nursery's interpreter runs; its arguments: control descriptor, supervisor's pid, module path."""

from __future__ import annotations

import gc
import sys

if __name__ == "__main__":
    # What is loaded here stays; children collect (see `main`), and a program's first result waits for all of this.
    gc.disable()
    # First of all: the script's own folder stands at its head, and is no place for top-level modules.
    sys.path[:] = sys.argv[3:]
    from cluster.worker.nursery import main

    main(int(sys.argv[1]), int(sys.argv[2]))
