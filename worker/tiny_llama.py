"""``python -m windrow.worker.tiny_llama``: make the weights of ``builtin:tiny-llama``, in about a minute on two cores.

The same files give the same weights, up to how a machine rounds: seeded, on the CPU, cut into as many pieces on any.
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
#: Each batch is cut into so many pieces, a thread each with torch's own threads switched off: beside other programs
#: those would wait for each other, spinning (see `windrow.worker.engines.device.cores`). Fixed, since sums depend on
#: the number.
PIECES = 2
LOG_EVERY_STEPS = 50


def make_tiny_llama() -> Path:
    """Return the folder of the model, which is trained first where nobody has done so on this machine.

    Whoever comes meanwhile waits for it. Raises `ModelUnusable` where the cache cannot be written.
    """
    folder = builtin_cache(NAME)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _train_beside(folder)
    except OSError as error:
        raise ModelUnusable(f"builtin:{NAME}: {folder.parent} cannot be written: {error.strerror}") from error
    return folder


def _train_beside(folder: Path) -> None:
    """Train into a folder of another name, and give it its name when it is whole."""
    log.info("training builtin:%s, once on this machine: about a minute", NAME)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as unfinished:
        whole = Path(unfinished) / "whole"
        train(whole)
        whole.rename(folder)


def train(folder: Path, steps: int | None = None) -> None:
    """Write the model to ``folder``; ``steps`` other than the recipe's are for tests that need no words."""
    disable_progress_bar()  # a log file is no place for one
    files = builtin_files(NAME)
    recipe = json.loads((files / "recipe.json").read_text(encoding="utf-8"))
    steps = recipe["steps"] if steps is None else steps
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The seed of everybody else in this process is left alone.
        with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(PIECES, initializer=_alone) as pool:
            torch.manual_seed(recipe["seed"])
            model = LlamaForCausalLM(LlamaConfig.from_pretrained(files))
            _fit(model, _batches(files, recipe), recipe, steps, pool)
    finally:
        torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    for file in files.glob("*token*"):
        shutil.copyfile(file, folder / file.name)


def _alone() -> None:
    torch.set_num_threads(1)


def _fit(
    model: LlamaForCausalLM, batches: Iterator[Tensor], recipe: dict[str, Any], steps: int, pool: ThreadPoolExecutor
) -> None:
    def gradients(ids: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        loss = model(input_ids=ids, labels=ids).loss / PIECES
        return loss.item(), torch.autograd.grad(loss, weights)

    weights = list(model.parameters())
    rate, began_s = recipe["learning_rate"], time.monotonic()
    optimizer = torch.optim.AdamW(weights, rate, (0.9, 0.95), weight_decay=recipe["weight_decay"])
    # Up in a few steps, then down along a line to nothing.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / recipe["warmup_steps"], 1 - step / max(1, steps))
    )
    for step in range(1, steps + 1):
        losses, pieces = zip(*pool.map(gradients, next(batches).chunk(PIECES)), strict=True)
        for weight, parts in zip(weights, zip(*pieces, strict=True), strict=True):
            weight.grad = torch.stack(parts).sum(0)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % LOG_EVERY_STEPS == 0:
            log.info("step %d of %d: loss %.2f, %.0f s", step, steps, sum(losses), time.monotonic() - began_s)


def _batches(files: Path, recipe: dict[str, Any]) -> Iterator[Tensor]:
    """(sequences, tokens) ids, without end: the page in a new order each time, cut wherever a sequence is full."""
    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    texts = [tokenizer.encode(text, add_special_tokens=False).ids for text in documents(files)]
    size = recipe["sequences"] * recipe["sequence_tokens"]
    row: list[int] = []
    while True:
        for index in torch.randperm(len(texts)).tolist():
            row += texts[index]
        while len(row) >= size:
            yield torch.tensor(row[:size]).view(recipe["sequences"], -1)
            row = row[size:]


def documents(files: Path) -> list[str]:
    """The page's questions and answers: each as the chat template writes it, and as plain text for completions."""
    pairs = [entry.split("\n") for entry in (files / "corpus.txt").read_text(encoding="utf-8").strip().split("\n\n")]
    chats = [f"<|begin|><|user|>{question}<|assistant|>{answer}<|end|>" for question, answer in pairs]
    return chats + [f"<|begin|>{question}\n{answer}<|end|>" for question, answer in pairs]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(make_tiny_llama())
    except ModelUnusable as error:
        sys.exit(error.detail)
