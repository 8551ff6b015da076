"""Where a `Job` among a job's arguments becomes that job's result.

A `Job` pickles itself as a call of `result_of(its id)`. The child that is about to unpickle a job's arguments puts the
results that came with the lease into `current` first, so unpickling replaces each such call by the result itself. It
stands on the wire's floor because client and worker both need it, and neither may import the other.

Written only by a child's main thread, between two jobs.
"""

from __future__ import annotations

import pickle

from cluster.errors import ClusterError

# Pickled results of the jobs that the job in hand was given as arguments, by job id.
current: dict[str, bytes] = {}

# True in a child process: the code that reads it runs inside a job.
inside_job: bool = False


def result_of(job_id: str) -> object:
    """The result of a job that the running one depends on; unpickled anew for each place where it stands."""
    payload = current.get(job_id)
    if payload is None:
        raise ClusterError(
            f"the result of job {job_id} can only be put in while a job that has it as an argument is loaded; "
            f"elsewhere use c.job({job_id!r}).result()"
        )
    result: object = pickle.loads(payload)
    return result
