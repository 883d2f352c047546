"""Tasks: what each one accepts, costs and returns. One file per task; `base` says how to add one.

Nothing here needs torch: the API refuses invalid requests with it, and the worker reads the requests of Celery callers.
"""

from __future__ import annotations

from typing import Any

from windrow.scheduler.tasks.base import Parameters, Task, Text
from windrow.scheduler.tasks.classify import CLASSIFY
from windrow.scheduler.tasks.embed import EMBED
from windrow.scheduler.tasks.generate import GENERATE
from windrow.scheduler.tasks.rerank import RERANK
from windrow.scheduler.tasks.token_classify import TOKEN_CLASSIFY
from windrow.scheduler.tasks.upstream import UPSTREAM
from windrow.scheduler.tasks.zero_shot import ZERO_SHOT

__all__ = ["TASKS", "Parameters", "Task", "Text"]

#: Tasks by name, the value of ``task`` in windrow.toml.
TASKS: dict[str, Task[Any]] = {
    task.name: task for task in (EMBED, CLASSIFY, TOKEN_CLASSIFY, RERANK, ZERO_SHOT, GENERATE, UPSTREAM)
}
