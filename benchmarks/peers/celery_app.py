"""The one task of the Celery peer, with Celery's defaults but for where its broker is."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.tasks import echo

url = os.environ.get("BENCHMARK_REDIS", "redis://127.0.0.1:6379/0")
app = Celery("benchmark", broker=url, backend=url)
task = app.task(name="echo")(echo)
