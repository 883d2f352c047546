"""``celery -A benchmarks.faults.worker_app worker``: Windrow's own worker with a model whose answers are known.

What is replaced is what loads the model, and torch with it; claims and finishes may stop at a barrier. Everything else
is the worker as users run it.
"""

# ruff: noqa: E402

from __future__ import annotations

from benchmarks.faults.clock import shift_as_asked

shift_as_asked()

import faulthandler
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from benchmarks.faults.barriers import stop_at
from benchmarks.faults.engine import KnownEngine
from windrow.worker.celery.app import app
from windrow.worker.leases.leases import Leases

__all__ = ["app"]


def replace_models() -> None:
    """Stand in for torch and for the engines that need it, which take seconds to import."""
    torch: Any = ModuleType("torch")
    torch.set_num_threads = lambda count: None
    sys.modules["torch"] = torch
    module: Any = ModuleType("windrow.worker.engines.text.encoder")
    module.EncoderEngine = KnownEngine
    sys.modules[module.__name__] = module


def put_barriers(leases: Any) -> None:
    """Let claims that got something and finishes stop before they go on."""
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


#: `kill -USR2` of a pool process that does not move shows in its log where it stands.
faulthandler.register(signal.SIGUSR2)
replace_models()
put_barriers(Leases)
