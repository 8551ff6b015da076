"""The one task of the Celery peer, with Celery's defaults but for where its broker is."""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-not-found,unused-ignore]

url = os.environ.get("BENCHMARK_REDIS", "redis://127.0.0.1:6379/0")
app = Celery("benchmark", broker=url, backend=url)


@app.task(name="echo")  # type: ignore[untyped-decorator,unused-ignore]
def echo(number: int) -> int:
    return number
