"""APScheduler 3: a purge as a job.

scheduler = BackgroundScheduler(timezone="UTC")
add_purge(scheduler, privacy, lambda: create_engine(url), "cron", hour=3, limits=Limits(max_seconds=3000))
scheduler.start()
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from apscheduler.job import Job
from apscheduler.schedulers.base import BaseScheduler
from sqlalchemy import Engine

from privkit.integrations.scheduling import purge_once
from privkit.privacy import Privacy
from privkit.retention import Limits


def add_purge(
    scheduler: BaseScheduler,
    privacy: Privacy,
    make_engine: Callable[[], Engine],
    trigger: Any,
    *,
    batch: int | None = None,
    workers: int = 1,
    limits: Limits | None = None,
    vacuum: bool = False,
    **options: Any,
) -> Job:
    """Add a job that calls ``purge_once``: never twice at once, and one run for all that were missed.

    ``trigger``, ``options``: as ``add_job`` takes them. A run that leaves anything is a job that failed, so listen for
    ``EVENT_JOB_ERROR``. Keep it in a job store in memory, and add it at each start: a Privacy holds keys.
    """
    how: dict[str, Any] = {"batch": batch, "workers": workers, "limits": limits, "vacuum": vacuum}
    given = {"id": "privkit.purge", "name": "privkit purge", "max_instances": 1, "coalesce": True}
    given |= {"misfire_grace_time": None, "replace_existing": True}
    return scheduler.add_job(partial(purge_once, privacy, make_engine, **how), trigger, **given | options)
