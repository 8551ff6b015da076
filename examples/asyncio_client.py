"""Jobs in an asyncio program: `await` a job, wait for many, and give up waiting without killing the job.

The jobs run on a cluster of processes, which this program launches in a temporary folder. `async with` is not needed: no
call that is made in the loop here waits for the network, but those at the two ends of the `with` block.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import cluster

LAB = """
name: lab
master: {bind: "tcp://127.0.0.1:0"}   # port 0: one that is free
workers: [{slots: 2}]
"""


def slow_upper(text: str) -> str:
    time.sleep(0.2)
    return text.upper()


async def main(lab: Path) -> None:
    with cluster.launch(lab) as c:
        # A job can be awaited as it is; the event loop runs on meanwhile.
        assert await c.submit(slow_upper, ("one",)) == "ONE"

        # Many at once: they run side by side in the slots, not in the loop.
        words = ["the", "quick", "brown", "fox"]
        shouted = await asyncio.gather(*(c.submit(slow_upper, (word,)) for word in words))
        print(" ".join(shouted))
        assert shouted == ["THE", "QUICK", "BROWN", "FOX"]

        # A waiter that runs out of time gives up its wait; the job goes on and still has its result.
        job = c.submit(slow_upper, ("patience",))
        try:
            async with asyncio.timeout(0.01):
                await job
        except TimeoutError:
            print("not yet")
        assert await job == "PATIENCE"


with tempfile.TemporaryDirectory() as folder:
    lab = Path(folder, "lab.yaml")
    lab.write_text(LAB, encoding="utf-8")
    asyncio.run(main(lab))
