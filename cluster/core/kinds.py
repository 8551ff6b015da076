"""One record for what many jobs have alike.

A job that comes over the network, or out of the store, brings a digest and options of its own, equal to those of a thousand
others. Of what a million of them cost while they wait, that is a quarter; and lanes tell by identity that the next job is of
the same kind.
"""

from __future__ import annotations

from msgspec import structs

from cluster.core.records import DEFAULT_OPTIONS, Digest, JobSpec, Options

# Of functions, and of options. Whoever has more kinds of jobs at a time pays with memory for some of them.
MAX_KINDS = 256
AT_ONCE = 0.0


class Kinds:
    """What jobs have lately had alike. From any thread: at worst something is kept twice."""

    def __init__(self) -> None:
        self._digests: dict[Digest, Digest] = {}
        self._options: dict[Options, Options] = {DEFAULT_OPTIONS: DEFAULT_OPTIONS}
        self._latest = DEFAULT_OPTIONS

    def share(self, spec: JobSpec) -> None:
        """Have a job refer to records that others refer to as well.

        To everyone else nothing changes: what is replaced in the frozen record is replaced by its equal.
        """
        if len(self._digests) > MAX_KINDS:
            self._digests.clear()
        structs.force_setattr(spec, "function", self._digests.setdefault(spec.function, spec.function))
        if not spec.delay:
            structs.force_setattr(spec, "delay", AT_ONCE)
        options = spec.options
        known = self._latest
        if options != known:  # cheaper than to look it up, and most jobs are of one kind with the one before
            if len(self._options) > MAX_KINDS:
                self._options.clear()
            known = self._latest = self._options.setdefault(options, options)
        structs.force_setattr(spec, "options", known)
