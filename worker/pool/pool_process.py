"""One pool process: it takes its share of the machine, loads the models, and runs the batch loop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from glob import glob

from windrow.errors import ModelUnusable
from windrow.scheduler.config.settings import Settings, load_settings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import RedisQueue
from windrow.worker.batches.batch_loop import ATTEND_EVERY_S, BatchLoop
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.engines.base import StepEngine
from windrow.worker.pool.load_failures import LoadFailures
from windrow.worker.pool.model_changes import ModelChanges
from windrow.worker.process.garbage_collector import freeze_loaded_objects
from windrow.worker.process.model_requests import ModelRequests, read_model_requests
from windrow.worker.process.progress import Progress, ProgressReading, write_slot
from windrow.worker.process.stopping import DRAINED, GRACEFULLY, STOP
from windrow.worker.process.threads import start_thread
from windrow.worker.steps.step_model import StepModel

log = logging.getLogger(__name__)


def run_pool_process(slot: int, slots: int, worker: str) -> None:
    """Serve every configured model on device ``slot`` of ``slots`` until the worker stops or dies.

    Any failure ends the process, and the pool starts a clean one.
    """
    # The parent stops its pool processes by a flag. A signal to the whole process group must not interrupt a batch.
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    write_slot(slot, ProgressReading(os.getpid(), 0, 0, 0))

    def stopping() -> int:
        return STOP.value or (GRACEFULLY if os.getppid() != parent else 0)

    try:
        loaded = threading.Event()
        start_thread(_exit_while_loading, loaded, stopping)
        spare = is_spare(slot)  # before `take_share` reduces the visible devices to one
        take_share(slot, slots)
        settings, before = load_settings(), read_model_requests()
        models = open_models(settings, f"{worker}/{slot}", is_spare=spare)
        freeze_loaded_objects()
        loaded.set()
        log.info("slot %d serves %s", slot, ", ".join(models))
        loop = BatchLoop(models, stopping, Progress(slot, settings.stall_s), lambda: DRAINED.value)
        loop.on_look = model_changes(settings, models, loop, before, stopping).look
        loop.run()
    except BaseException:
        log.exception("slot %d failed", slot)
        os._exit(1)
    if not STOP.value:  # the parent is gone, and nothing waits for the exit status
        os._exit(0)


def _exit_while_loading(loaded: threading.Event, stopping: Callable[[], int]) -> None:
    """Exit if the worker stops while models load: no request is held, and a large model takes minutes to load."""
    while not loaded.wait(ATTEND_EVERY_S):
        if stopping():
            os._exit(0)


def take_share(slot: int, slots: int, environ: Mapping[str, str] = os.environ) -> None:
    """Select the device of this process and its share of the CPU threads."""
    devices = visible_devices(environ)
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    share = max(1, len(os.sched_getaffinity(0)) // slots)
    os.environ.setdefault("RAYON_NUM_THREADS", str(share))  # read by tokenizers
    # The thread that drives the device must not wait 5 ms for a thread that prepares requests.
    sys.setswitchinterval(0.001)
    import torch

    torch.set_num_threads(share)


def visible_devices(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the CUDA devices of this worker.

    Does not initialize CUDA, which must not start before the fork.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    # A container has device nodes for its own devices only. A driver that has not been used yet has no nodes.
    nodes = glob("/dev/nvidia[0-9]*") or glob("/proc/driver/nvidia/gpus/*")
    return [str(number) for number in range(len(nodes))]


def is_spare(slot: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the process in ``slot`` shares its device with a process in a lower slot.

    Several processes keep a device busier than one interpreter can. The first one still claims a single request, so
    that batches are fuller and the device switches less between processes.
    """
    devices = visible_devices(environ)
    return bool(devices) and slot >= len(devices)


def model_changes(
    settings: Settings,
    models: Mapping[str, BatchModel | StepModel],
    loop: BatchLoop,
    before: ModelRequests,
    stopping: Callable[[], object],
) -> ModelChanges:
    """Return the object that applies remote-control requests in this process."""
    from windrow.worker.engines.loading import batch_limits, load_engine_afresh

    return ModelChanges(
        models,
        loop.buffer,
        load=lambda model: load_engine_afresh(model, settings.models[model]),
        limits=lambda model, info: batch_limits(settings.models[model], info),
        before=before,
        stopping=stopping,
    )


def open_models(settings: Settings, worker: str, *, is_spare: bool = False) -> dict[str, BatchModel | StepModel]:
    """Load every model and report those that fail to load; raises `ModelUnusable` if all of them fail."""
    from windrow.worker.engines.loading import batch_limits, load_engine

    redis = connect(settings.redis_url)
    failures = LoadFailures(redis, worker)
    models: dict[str, BatchModel | StepModel] = {}
    for name, model in settings.models.items():
        if is_spare and model.task == "generate":
            continue  # its KV cache takes all free memory, so it fits once
        began_s = time.monotonic()
        try:
            engine = load_engine(name, model)
        except ModelUnusable as error:
            log.error("model %s is not served: %s", name, error.detail)
            failures.add(name, error.detail)
            continue
        except Exception as error:  # the failure of one model must not affect the others
            log.exception("model %s is not served", name)
            failures.add(name, f"{type(error).__name__}: {error}")
            continue
        log.info("model %s loaded in %.1f s: %s", name, time.monotonic() - began_s, engine.info)
        queue = RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts)
        if isinstance(engine, StepEngine):
            models[name] = StepModel(redis, queue, engine, settings.lease_s, worker, is_spare=is_spare)
        else:
            limits = batch_limits(model, engine.info)
            models[name] = BatchModel(queue, engine, limits, model.max_wait_s, settings.lease_s, worker, is_spare)
    if not models:
        raise ModelUnusable("none of the configured models could be loaded")
    return models
