"""The Celery application of the comparison: one task and one forward pass per text."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from celery import Celery

from windrow.bench.workload import model_settings
from windrow.scheduler.models.sources import resolve_source

#: Environment variable with the URL of the benchmark's Redis.
URL_VARIABLE = "BENCH_REDIS_URL"
#: Longer texts are truncated, as the model's sentence-transformers configuration states.
MAX_TOKENS = 256

url = os.environ.get(URL_VARIABLE, "redis://127.0.0.1:6379/0")
app = Celery("bench", broker=url, backend=url)
app.conf.update(broker_connection_retry_on_startup=True)


@cache
def load_model() -> tuple[Any, Any]:
    """Load the tokenizer and the model at the first task of a pool process."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    folder = resolve_source(model_settings().source)
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


@app.task(name="bench.embed")
def embed(text: str) -> list[float]:
    """Compute the embedding of one text: the normalised mean of the last hidden states."""
    import torch

    tokenizer, model = load_model()
    encoded = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    with torch.inference_mode():
        pooled = model(**encoded).last_hidden_state[0].mean(0)
        vector: list[float] = torch.nn.functional.normalize(pooled, dim=0).tolist()
    return vector


@app.task(name="bench.nothing")
def nothing(payload: str) -> int:
    """Do nothing, to measure the cost of Celery itself."""
    return len(payload)
