"""Training of ``builtin:tiny-llama``: ``python -m windrow.worker.tiny_llama``, about a minute on two cores.

The weights are reproducible up to rounding: training is seeded, runs on the CPU, and splits each batch into the same
number of parts on every machine.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from windrow.errors import ModelUnusable
from windrow.scheduler.models.builtin import builtin_cache, builtin_files

log = logging.getLogger(__name__)
NAME = "tiny-llama"
#: Number of parts of a training batch, each computed by one thread; torch's own threads are switched off because they
#: spin while they wait for each other (see `windrow.worker.engines.device.cores`). Sums depend on this number.
PARTS = 2
LOG_EVERY_STEPS = 50


def make_tiny_llama() -> Path:
    """Return the folder of the model; train the model first if it is not in the cache of this machine.

    Processes that call this during the training wait for its end. Raises `ModelUnusable` if the cache is not writable.
    """
    folder = builtin_cache(NAME)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _train_and_rename(folder)
    except OSError as error:
        raise ModelUnusable(
            f"builtin:{NAME}: {folder.parent} cannot be written: {error.strerror}; set "
            "XDG_CACHE_HOME to a writable folder"
        ) from error
    return folder


def _train_and_rename(folder: Path) -> None:
    """Train into a temporary folder and rename it at the end, so that ``folder`` never holds an unfinished model."""
    log.info("training builtin:%s, once per machine: this takes about a minute", NAME)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as unfinished:
        finished = Path(unfinished) / "model"
        train(finished)
        finished.rename(folder)


def train(folder: Path, steps: int | None = None) -> None:
    """Train the model and save it to ``folder``. Tests that need no real words set fewer ``steps`` than the recipe."""
    disable_progress_bar()  # it would fill log files
    files = builtin_files(NAME)
    recipe = json.loads((files / "recipe.json").read_text(encoding="utf-8"))
    steps = recipe["steps"] if steps is None else steps
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Leaves the global random state of this process unchanged.
        with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(PARTS, initializer=_use_one_thread) as pool:
            torch.manual_seed(recipe["seed"])
            model = LlamaForCausalLM(LlamaConfig.from_pretrained(files))
            _fit(model, _batches(files, recipe), recipe, steps, pool)
    finally:
        torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    for file in files.glob("*token*"):
        shutil.copyfile(file, folder / file.name)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _fit(
    model: LlamaForCausalLM, batches: Iterator[Tensor], recipe: dict[str, Any], steps: int, pool: ThreadPoolExecutor
) -> None:
    def gradients(ids: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        loss = model(input_ids=ids, labels=ids).loss / PARTS
        return loss.item(), torch.autograd.grad(loss, weights)

    weights = list(model.parameters())
    rate, began_s = recipe["learning_rate"], time.monotonic()
    optimizer = torch.optim.AdamW(weights, rate, (0.9, 0.95), weight_decay=recipe["weight_decay"])
    # Linear warm-up, then linear decay to 0.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / recipe["warmup_steps"], 1 - step / max(1, steps))
    )
    for step in range(1, steps + 1):
        losses, parts = zip(*pool.map(gradients, next(batches).chunk(PARTS)), strict=True)
        for weight, grads in zip(weights, zip(*parts, strict=True), strict=True):
            weight.grad = torch.stack(grads).sum(0)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % LOG_EVERY_STEPS == 0:
            log.info("step %d of %d: loss %.2f, %.0f s", step, steps, sum(losses), time.monotonic() - began_s)


def _batches(files: Path, recipe: dict[str, Any]) -> Iterator[Tensor]:
    """Yield (sequences, tokens) ids without end: the shuffled documents of the page, concatenated and cut to size."""
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    texts = [tokenizer.encode(text, add_special_tokens=False).ids for text in documents(files)]
    size = recipe["sequences"] * recipe["sequence_tokens"]
    buffer: list[int] = []
    while True:
        for index in torch.randperm(len(texts)).tolist():
            buffer += texts[index]
        while len(buffer) >= size:
            yield torch.tensor(buffer[:size]).view(recipe["sequences"], -1)
            buffer = buffer[size:]


def documents(files: Path) -> list[str]:
    """Return the page's questions with their answers, each as a chat and as plain text for completions."""
    pairs = [entry.split("\n") for entry in (files / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")]
    chats = [f"<|begin|><|user|>{question}<|assistant|>{answer}<|end|>" for question, answer in pairs]
    return chats + [f"<|begin|>{question}\n{answer}<|end|>" for question, answer in pairs]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(make_tiny_llama())
    except ModelUnusable as error:
        sys.exit(error.detail)
