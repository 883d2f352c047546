"""What one pool process does: take its share of the machine, load the models, run the resident loop."""

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
from windrow.worker.process.garbage_collector import freeze_loaded_objects
from windrow.worker.process.load_failures import LoadFailures
from windrow.worker.process.model_changes import ModelChanges
from windrow.worker.process.model_requests import ModelRequests, read_model_requests
from windrow.worker.process.progress import Progress, ProgressReading, write_slot
from windrow.worker.process.stopping import DRAINED, GRACEFULLY, STOP
from windrow.worker.process.threads import start_thread
from windrow.worker.steps.step_model import StepModel

log = logging.getLogger(__name__)


def run_pool_process(slot: int, slots: int, worker: str) -> None:
    """Serve every configured model on device ``slot`` of ``slots`` until the worker stops or is gone.

    Ends the process where anything fails: the pool starts a clean one.
    """
    # The parent stops its pool processes by the flag; what is sent to the whole group must not cut a batch short.
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    write_slot(slot, ProgressReading(os.getpid(), 0, 0, 0))

    def stopping() -> int:
        return STOP.value or (GRACEFULLY if os.getppid() != parent else 0)

    try:
        loaded = threading.Event()
        start_thread(_leave_while_loading, loaded, stopping)
        spare = is_spare(slot)  # before it is given one device
        take_share(slot, slots)
        settings, before = load_settings(), read_model_requests()
        lanes = open_models(settings, f"{worker}/{slot}", is_spare=spare)
        freeze_loaded_objects()
        loaded.set()
        log.info("slot %d serves %s", slot, ", ".join(lanes))
        resident = BatchLoop(lanes, stopping, Progress(slot, settings.stall_s), lambda: DRAINED.value)
        resident.on_look = changes_of(settings, lanes, resident, before, stopping).look
        resident.run()
    except BaseException:
        log.exception("slot %d failed", slot)
        os._exit(1)
    if not STOP.value:  # the parent is gone, and nobody waits for the outcome
        os._exit(0)


def _leave_while_loading(loaded: threading.Event, stopping: Callable[[], int]) -> None:
    """Nothing is held yet, and a large model may take longer to load than anybody waits for a worker to stop."""
    while not loaded.wait(ATTEND_EVERY_S):
        if stopping():
            os._exit(0)


def take_share(slot: int, slots: int, environ: Mapping[str, str] = os.environ) -> None:
    """Give this process its device and its part of the CPU threads."""
    devices = visible_devices(environ)
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    share = max(1, len(os.sched_getaffinity(0)) // slots)
    os.environ.setdefault("RAYON_NUM_THREADS", str(share))  # tokenizers'
    # The device's thread must not wait 5 ms for a thread that makes rows ready.
    sys.setswitchinterval(0.001)
    import torch

    torch.set_num_threads(share)


def visible_devices(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The CUDA devices this worker may use, found without touching CUDA: it must not start before the fork."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    # A container has the nodes of the devices that it was given; a driver that nobody has used yet has none.
    nodes = glob("/dev/nvidia[0-9]*") or glob("/proc/driver/nvidia/gpus/*")
    return [str(number) for number in range(len(nodes))]


def is_spare(slot: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the process of ``slot`` shares its device with one before it.

    Several keep a device busier than one interpreter can. A request that comes alone is the first one's all the same:
    rows are fuller so, and the device need not change between processes.
    """
    devices = visible_devices(environ)
    return bool(devices) and slot >= len(devices)


def changes_of(
    settings: Settings,
    lanes: Mapping[str, BatchModel | StepModel],
    resident: BatchLoop,
    before: ModelRequests,
    stopping: Callable[[], object],
) -> ModelChanges:
    """What carries out the orders of remote control in this process."""
    from windrow.worker.engines.loading import batch_limits, load_engine_afresh

    return ModelChanges(
        lanes,
        resident.rows,
        load=lambda model: load_engine_afresh(model, settings.models[model]),
        limits=lambda model, info: batch_limits(settings.models[model], info),
        before=before,
        stopping=stopping,
    )


def open_models(settings: Settings, worker: str, *, is_spare: bool = False) -> dict[str, BatchModel | StepModel]:
    """Load every model that loads, and tell of those that do not; raise `ModelUnusable` where none does."""
    from windrow.worker.engines.loading import batch_limits, load_engine

    redis = connect(settings.redis_url)
    failures = LoadFailures(redis, worker)
    lanes: dict[str, BatchModel | StepModel] = {}
    for name, model in settings.models.items():
        if is_spare and model.task == "generate":
            continue  # its cache takes what memory there is, once
        began_s = time.monotonic()
        try:
            engine = load_engine(name, model)
        except ModelUnusable as error:
            log.error("model %s is not served: %s", name, error.detail)
            failures.add(name, error.detail)
            continue
        except Exception as error:  # whatever one model raises, the others are served
            log.exception("model %s is not served", name)
            failures.add(name, f"{type(error).__name__}: {error}")
            continue
        log.info("model %s loaded in %.1f s: %s", name, time.monotonic() - began_s, engine.info)
        queue = RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts)
        if isinstance(engine, StepEngine):
            lanes[name] = StepModel(redis, queue, engine, settings.lease_s, worker, is_spare=is_spare)
        else:
            limits = batch_limits(model, engine.info)
            lanes[name] = BatchModel(queue, engine, limits, model.max_wait_s, settings.lease_s, worker, is_spare)
    if not lanes:
        raise ModelUnusable("none of the configured models could be loaded")
    return lanes
