"""The most frequent words of a real text: the Python manual's own prose, which every Python carries in `pydoc_data`.

`map` spreads the topics over the workers; the small counts come back in whatever order they end, and are added up here.
"""

import re
from collections import Counter
from pydoc_data.topics import topics

import cluster


def count_words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[a-z]+", text.lower()))


with cluster.local() as c:
    total: Counter[str] = Counter()
    for counted in c.map(count_words, topics.values(), ordered=False):
        total += counted

print(f"{total.total():,} words on {len(topics)} topics; the most frequent:")
for word, times in total.most_common(5):
    print(f"{times:6,} {word}")

assert total == count_words("\n".join(topics.values()))
