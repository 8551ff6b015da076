"""Jobs that wait for other jobs: count the words of the standard library's email package, file by file.

A Job among the arguments is a dependency: the job starts when it has its result, and gets the result in its place. The
counts travel from job to job; this program sees the total only.
"""

import email
import re
from collections import Counter
from pathlib import Path

import cluster


def count_words(path: Path) -> Counter[str]:
    return Counter(re.findall(r"[a-z]+", path.read_text(encoding="utf-8").lower()))


def add_up(*counts: Counter[str]) -> Counter[str]:
    return sum(counts, start=Counter())


folder = Path(email.__file__).parent
files = sorted(folder.rglob("*.py"))

with cluster.local(slots=2) as c:
    counted = [c.submit(count_words, (path,), name=path.name) for path in files]
    # Two layers: eight files to a partial sum, then the partial sums.
    partial = [c.submit(add_up, tuple(counted[first : first + 8])) for first in range(0, len(counted), 8)]
    total = c.submit(add_up, tuple(partial)).result()

print(f"{total.total():,} words in {len(files)} files; the most frequent:")
for word, times in total.most_common(5):
    print(f"{times:6,} {word}")

assert total == add_up(*map(count_words, files))
