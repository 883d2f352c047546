"""From the `openai` package through API, queue and worker to a real server: ``transformers serve``."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis import Redis
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.import_utils import is_serve_available

from tests.support.api_server import start_api
from tests.support.redis_server import RedisServer, free_port
from tests.support.worker_process import until
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.keys import queue_key
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.engines.upstream.engine import UpstreamEngine
from windrow.worker.process.stopping import GRACEFULLY
from windrow.worker.steps.step_model import StepModel
from windrow.worker.tiny_llama import train

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not is_serve_available(), reason="needs transformers[serving]: fastapi and uvicorn"),
]

NAME = "behind"
TOKENS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    train(folder, 3)
    return folder


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[str]:
    """The address of the real server."""
    port, log = free_port(), model.parent / "serve.log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"],
            stdout=output, stderr=output, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until("the server answers", answers, 100)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def client(model: Path, server: str) -> Iterator[openai.OpenAI]:
    """The package in front of everything."""
    config = model.parent / "windrow.toml"
    table = {"task": "upstream", "url": server, "upstream_model": str(model)}
    config.write_text(f"[models.{NAME}]\n" + "".join(f'{name} = "{value}"\n' for name, value in table.items()))
    with RedisServer() as server_of_ours, Redis.from_url(server_of_ours.url) as redis:
        engine = UpstreamEngine(NAME, ModelSettings.model_validate(table))
        served = StepModel(redis, RedisQueue(redis, NAME), engine, 60.0, "worker@test/0")
        stop = threading.Event()
        resident = threading.Thread(target=BatchLoop({NAME: served}, lambda: GRACEFULLY * stop.is_set()).run)
        resident.start()
        process, port = start_api(server_of_ours.url, log=model.parent / "api.log", WINDROW_CONFIG=str(config))
        try:
            until("the worker has sent a heartbeat", lambda: served.leases.queue.workers(within_s=60))
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
                yield client
        finally:
            process.terminate()
            process.wait(30)
            stop.set()
            redis.lpush(queue_key(NAME, "wake"), "1")  # no request waits for the end of a claim
            resident.join(30)


def messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def expected(model: Path, text: str) -> str:
    """What transformers generates, greedily."""
    tokenizer, llama = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    ids = tokenizer.apply_chat_template(
        messages(text), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = llama.generate(**ids, max_new_tokens=TOKENS, do_sample=False)[0]
    return str(tokenizer.decode(made[ids["input_ids"].shape[1] :], skip_special_tokens=True))


def test_a_chat_gives_the_text_of_the_model_streamed_or_not(client: openai.OpenAI, model: Path) -> None:
    asked: dict[str, Any] = {
        "model": NAME,
        "messages": messages("What is hay?"),
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == expected(model, "What is hay?")
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == TOKENS
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert len(chunks) > 3


def test_each_of_many_clients_gets_its_own_completion(client: openai.OpenAI) -> None:
    def ask(number: int) -> str:
        made = client.completions.create(model=NAME, prompt=f"Hay {number}", temperature=0, max_tokens=4)
        return made.choices[0].text

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, range(6)))
    assert together == [ask(number) for number in range(6)]


def test_a_client_that_disconnects_does_not_delay_later_requests(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=NAME, messages=messages("Hello"), stream=True, max_tokens=200)
    next(stream)
    stream.close()
    asked: dict[str, Any] = {"model": NAME, "messages": messages("Hello"), "max_tokens": 2}
    assert client.chat.completions.create(**asked).choices[0].finish_reason in ("length", "stop")


def test_a_parameter_that_the_server_does_not_support_is_reported(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=NAME, messages=messages("x"), extra_body={"top_k": 3, "min_tokens": 1})
    assert raised.value.code in ("invalid_input", "upstream_failed")
