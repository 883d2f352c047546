"""The gateway with the default model in this process, with a server, and in the example of docs/gateway.md."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from windrow import InferenceConfig, InferenceGateway
from windrow.errors import RequestRefused

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
TEXTS = ["hay", "make hay while the sun shines", "a windrow is a row of cut stalks " * 5, "rain"]


def test_batching_changes_no_output_and_an_invalid_text_fails_alone() -> None:
    async def run(config: InferenceConfig) -> tuple[list[list[float]], dict[str, float]]:
        async with InferenceGateway(config) as gateway:
            *outputs, refused = await asyncio.gather(
                *(gateway.infer(text) for text in TEXTS),
                gateway.infer("word " * 1000, parameters={"truncate": True}),
                gateway.infer("word " * 1000),
                return_exceptions=True,
            )
            assert isinstance(refused, RequestRefused)
            assert refused.code == "input_too_long"
            return [output["embedding"] for output in outputs], (await gateway.health())["batching"]

    alone, serial = asyncio.run(run(InferenceConfig(enable_batching=False)))
    together, batched = asyncio.run(run(InferenceConfig(max_batch_size=5, max_batch_wait_ms=60_000)))
    assert [len(embedding) for embedding in together] == [384] * 5
    assert isinstance(together[0], list)
    np.testing.assert_allclose(np.array(together), np.array(alone), atol=1e-5)
    assert (serial["total_batches"], serial["total_requests"]) == (5, 5)
    assert (batched["total_batches"], batched["total_requests"]) == (1, 5)


def test_the_gateway_sends_requests_to_a_server(served: int) -> None:
    async def run() -> None:
        async with InferenceGateway(backend=f"http://127.0.0.1:{served}") as gateway:
            outputs = await asyncio.gather(*(gateway.infer(text) for text in TEXTS))
            assert outputs == [{"embedding": [float(len(text))]} for text in TEXTS]
            assert (await gateway.health())["status"] == "ok"
            with pytest.raises(RequestRefused) as refused:
                await gateway.infer(7)
            assert refused.value.code == "invalid_input"

    asyncio.run(run())


def test_the_example_in_the_documentation_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8"), re.S)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    outputs, batching = run.stdout.splitlines()
    assert outputs == "[2, 3, 1]"
    assert "'total_requests': 3" in batching
