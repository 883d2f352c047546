"""``celery -A benchmarks.faults.worker_app worker``: Windrow's worker with a model whose answers are known.

Only the engine and torch are replaced, and claims and finishes may block at a stop point. Everything else is the worker
that users run.
"""

# ruff: noqa: E402

from __future__ import annotations

from benchmarks.faults.clock import shift_from_environ

shift_from_environ()

import faulthandler
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from benchmarks.faults.engine import KnownEngine
from benchmarks.faults.stop_points import stop_at
from windrow.worker.celery.app import app
from windrow.worker.leases.leases import Leases

__all__ = ["app"]


def replace_models() -> None:
    """Replace torch and the encoder engine, which take seconds to import, by stubs."""
    torch: Any = ModuleType("torch")
    torch.set_num_threads = lambda count: None
    sys.modules["torch"] = torch
    module: Any = ModuleType("windrow.worker.engines.text.encoder")
    module.EncoderEngine = KnownEngine
    sys.modules[module.__name__] = module


def add_stop_points(leases: Any) -> None:
    """Make non-empty claims and finishes block at their stop points."""
    claim: Callable[..., Any] = leases.claim
    finish: Callable[..., Any] = leases.finish

    def claim_and_stop(*args: Any, **options: Any) -> Any:
        claimed = claim(*args, **options)
        if getattr(claimed, "requests", claimed):
            stop_at("after_claim")
        return claimed

    def stop_and_finish(*args: Any, **options: Any) -> Any:
        stop_at("before_finish")
        finished = finish(*args, **options)
        stop_at("after_finish")
        return finished

    leases.claim, leases.finish = claim_and_stop, stop_and_finish


#: For debugging: ``kill -USR2`` makes a process that hangs log its stack.
faulthandler.register(signal.SIGUSR2)
replace_models()
add_stop_points(Leases)
