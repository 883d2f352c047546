"""``windrow demo``: starts a stack, plays the scenes through REST, shows the results, and stops or keeps serving."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from windrow.client.async_client import AsyncClient
from windrow.demo import report, scenes, show, streams
from windrow.lab.sample_texts import SHORT_TEXTS, mixed_texts
from windrow.stack.serve import NotReady, Stack
from windrow.stack.supervisor import INTERRUPTED, POLL_S, Interrupted, Interrupts, ProgramEnded

T = TypeVar("T")


class Demo:
    """One demonstration; ``console`` receives the text for people."""

    def __init__(self, console: Console, request_count: int, *, keep: bool, is_verbose: bool = False) -> None:
        self._console = console
        self._request_count = request_count
        self._keep = keep
        self._is_verbose = is_verbose
        #: The report of `windrow.demo.report.to_json` after the scenes, otherwise None.
        self.report: dict[str, Any] | None = None

    def run(self) -> int:
        """Return the exit code: 0, 1 if a request failed or an output differs, 130 if a signal stopped it."""
        with Interrupts() as interrupts, tempfile.TemporaryDirectory(prefix="windrow-demo-") as folder:
            try:
                streams.make_model(interrupts, self._say)
                with (
                    as_file(files("windrow.demo") / "windrow.toml") as config,
                    Stack(
                        Path(folder),
                        demo_environ(config),
                        interrupts,
                        self._say,
                        is_verbose=self._is_verbose,
                        needs_all=True,
                    ) as stack,
                ):
                    asyncio.run(watched(self._play(stack), stack))
                    if self._keep:
                        self._say(examples(stack.url, stack.redis_url))
                        asyncio.run(watched(asyncio.Event().wait(), stack))
            except Interrupted:
                return self._exit_code() if self.report is not None else INTERRUPTED
            except (ProgramEnded, NotReady) as error:
                self._say(str(error))
                return 1
            return self._exit_code()

    async def _play(self, stack: Stack) -> None:
        console = self._console
        async with AsyncClient(stack.url) as client:
            # The model of scene 1 is not warmed up: a single request would teach it that waiting is useless.
            await scenes.warm_up(client, [scenes.model_of(strategy) for strategy in scenes.STRATEGIES])
            window = stack.settings.models[scenes.WINDOW_MODEL]
            console.rule("1. Ten clients, one after another")
            self._say(
                f"They arrive {scenes.ARRIVAL_S * 1e3:.0f} ms apart at {scenes.WINDOW_MODEL}, which has batches "
                f"of at most {window.max_batch_size} requests and a window of {window.max_wait_ms:.0f} ms from the "
                "first arrival."
            )
            arrivals = await scenes.play_arrivals(client, SHORT_TEXTS)
            show.show_arrivals(console, arrivals, report.collect_batches(arrivals))
            self._say("")
            console.rule(f"2. {self._request_count} texts with every strategy")
            self._say(
                f"{scenes.CLIENTS} concurrent clients send texts of 3 to 400 words; the models have the same weights "
                "and differ in their batching."
            )
            runs = await self._play_strategies(client)
            summaries = report.summarise(runs)
            show.show_summary(console, summaries)
            console.rule(f"3. {len(streams.QUESTIONS)} questions, answered token by token")
            self._say(
                "A Llama with 3 million parameters, trained on one page; short answers leave the batch while long ones "
                "continue."
            )
            answers = [streams.StreamedAnswer(question) for question in streams.QUESTIONS]
            with show.shown_answers(console, answers) as on_text:
                await streams.play_streams(client, answers, on_text)
        self.report = report.to_json(arrivals, summaries, answers)
        predicted = [*arrivals, *(answer for run in runs for answer in run.answers)]
        self._say_problems([answer.problem for answer in predicted] + [answer.problem for answer in answers])

    async def _play_strategies(self, client: AsyncClient) -> list[scenes.Run]:
        texts = mixed_texts(self._request_count)
        runs = []
        with show.shown_progress(self._console) as start:
            for strategy in scenes.STRATEGIES:
                runs.append(await scenes.play_strategy(client, strategy, texts, start(strategy, len(texts))))
        return runs

    def _exit_code(self) -> int:
        return 0 if self.report is not None and self.report["ok"] else 1

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _say_problems(self, problems: list[str | None]) -> None:
        failed = [problem for problem in problems if problem is not None]
        if failed:
            self._say(f"{len(failed)} requests failed, the first with: {failed[0]}")
        elif self._exit_code():
            self._say("Embeddings differ from those without batching.")
        else:
            self._say("Every request succeeded, and batching changed no embedding.")


async def watched(work: Coroutine[Any, Any, T], stack: Stack) -> T:
    """Run ``work`` while the stack runs; raise the errors of `Stack.check`."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            stack.check()
            await asyncio.wait([task], timeout=POLL_S)
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


def demo_environ(config: Path) -> dict[str, str]:
    """Return the environment of the demonstration: its own models, and no network."""
    return {**os.environ, "WINDROW_CONFIG": str(config), "HF_HUB_OFFLINE": "1"}


def examples(url: str, redis_url: str) -> str:
    """Return commands to try while the demonstration keeps serving."""
    return f"""
Redis for subscribers and Celery callers: {redis_url}
Serving on {url} until Ctrl-C. Try:

  curl -s {url}/v1/predictions -H 'Content-Type: application/json' -H 'Prefer: wait=10' \\
    -d '{{"model": "minilm", "input": "The hay is dry enough to rake."}}'
  curl -s {url}/v1/predictions:batch -H 'Content-Type: application/json' \\
    -d '{{"model": "minilm", "inputs": ["one text", "another"]}}'
  curl -sN {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "tiny-llama", "messages": [{{"role": "user", "content": "What is a window?"}}], "stream": true}}'
  curl -s {url}/v1/models
  .venv/bin/windrow predict minilm "The hay is dry enough to rake." --url {url}
"""
