"""The worker of plain Celery."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from windrow.bench.programs import running
from windrow.stack.supervisor import Child


def running_worker(folder: Path, environ: Mapping[str, str]) -> AbstractContextManager[Child]:
    """Run ``celery worker`` with one prefork process during the ``with`` block."""
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_peer.app", "worker"]
    command += ["--pool", "prefork", "--concurrency", "1", "--loglevel", "WARNING"]
    return running("celery", command, folder, environ)
