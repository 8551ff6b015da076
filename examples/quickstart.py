"""The first things to know: submit, map, errors, a lambda, and a script that needs no `__main__` guard."""

import cluster


def divide(dividend: float, divisor: float) -> float:
    return dividend / divisor


with cluster.local(slots=2) as c:
    # A job is a future. Arguments come as a tuple, as with multiprocessing's `apply_async`.
    job = c.submit(divide, (1, 8), name="an eighth")
    print(job.name, "=", job.result())
    assert job.result() == 0.125

    # `map` sends many items with few messages; results come in order.
    halves = list(c.map(divide, range(1000), [2] * 1000))
    print("the last of a thousand halves =", halves[-1])
    assert halves == [number / 2 for number in range(1000)]

    # The task's own exception is raised here, with the traceback from over there as its cause.
    failing = c.submit(divide, (1, 0))
    try:
        failing.result()
    except ZeroDivisionError as error:
        print("as it should:", error)
    else:
        raise AssertionError("dividing by zero must fail")

    # Functions travel by value where they must: lambdas and closures too.
    offset = 100
    assert c.submit(lambda number: number + offset, (1,)).result() == 101
