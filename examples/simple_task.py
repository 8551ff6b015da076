"""Ten lines: run functions in other processes and use their results."""

import cluster


def square(number: int) -> int:
    return number * number


jobs = [cluster.submit(square, (number,)) for number in range(10)]
total = sum(job.result() for job in jobs)
print("sum of squares:", total)
assert total == 285
