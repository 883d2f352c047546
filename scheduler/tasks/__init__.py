"""What each task takes: its input, its parameters and the texts that its model reads for one request.

Known here once, without torch: the API refuses with it what cannot be served, and the worker reads with it what Celery
callers sent. A new task is a file beside these, a line in `TASKS` and an engine in ``worker/engines/loading.py``.
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

#: Name, as ``task`` in windrow.toml has it -> task.
TASKS: dict[str, Task[Any]] = {
    task.name: task for task in (EMBED, CLASSIFY, TOKEN_CLASSIFY, RERANK, ZERO_SHOT, GENERATE, UPSTREAM)
}
