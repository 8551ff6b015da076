"""Jobs in an asyncio program: `await` a job, wait for many, and give up waiting without killing the job."""

import asyncio
import time

import cluster


def slow_upper(text: str) -> str:
    time.sleep(0.2)
    return text.upper()


async def main() -> None:
    with cluster.local(slots=2) as c:
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


asyncio.run(main())
