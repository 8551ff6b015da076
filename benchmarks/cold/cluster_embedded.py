import sys
import time

import cluster

with cluster.local(slots=2, store=sys.argv[1]) as c:
    result = c.submit(pow, (2, 10)).result()
    print(time.monotonic(), result, flush=True)
