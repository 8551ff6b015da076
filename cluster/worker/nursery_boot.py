"""The script that a nursery's interpreter runs; its arguments: control descriptor, supervisor's pid, module path.

The package's `__init__` brings in client, master and store, which is what a program wants of `import cluster`, but costs
more than all that a nursery needs. So the package is put in place unexecuted, and executed when a job first asks it for
a name (`cluster.current_job`, say), which most jobs never do.
"""

from __future__ import annotations

import sys


def defer(name: str) -> None:
    """Put a package in place whose `__init__` runs at the first look at one of its names."""
    # Not at the top: what stands there is imported before the module path is known.
    import importlib.util
    import threading

    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r} on the worker's module path {sys.path}")
    loader = spec.loader
    package = importlib.util.module_from_spec(spec)
    # Reentrant, for the `__init__` itself imports from the package.
    lock = threading.RLock()
    unexecuted = [package]

    def find(attribute: str) -> object:
        with lock:
            if unexecuted:
                loader.exec_module(unexecuted.pop())
        names = vars(package)
        if attribute in names:
            return names[attribute]
        own = names["__getattr__"]
        if own is not find:
            return own(attribute)
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

    vars(package)["__getattr__"] = find
    sys.modules[name] = package


if __name__ == "__main__":
    # First of all: the script's own folder stands at its head, and is no place for top-level modules.
    sys.path[:] = sys.argv[3:]
    defer("cluster")
    from cluster.worker.nursery import main

    main(int(sys.argv[1]), int(sys.argv[2]))
