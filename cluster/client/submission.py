"""Makes the record of one job out of what its caller said."""

from __future__ import annotations

import base64
from _blake2 import blake2b  # as in `core.digests`

from cluster.client.options import Submission
from cluster.core.records import Digest, JobId, JobSpec

Call = tuple[bytes, tuple[JobId, ...]]  # pickled arguments, and the jobs whose results go into them
Chunk = tuple[int, str, int]  # items, the map's id, index of the first item


def spec_of(wanted: Submission, job: JobId, function: Digest, call: Call, *, chunk: Chunk = (0, "", 0)) -> JobSpec:
    """The job as it goes to the desk."""
    body, inputs = call
    count, batch, first = chunk
    return JobSpec(
        job,
        function,
        body,
        wanted.options,
        tuple(dict.fromkeys(wanted.after + inputs)),
        inputs,
        wanted.delay,
        wanted.at,
        wanted.expires,
        wanted.key,
        count,
        batch,
        first,
    )


def id_of_key(key: str) -> JobId:
    """The id of the job that a key names: the same wherever it is submitted, and so it is the same job."""
    digest = blake2b(key.encode(), digest_size=15, person=b"cluster job key").digest()
    return "key-" + base64.b32encode(digest).decode().lower()
