"""Settings of task upstream: the documented examples are valid, and invalid values are named."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.settings import Settings

PAGES = Path(__file__).parents[3] / "docs"
EXAMPLES = [
    example
    for page in ("upstream.md", "openai.md")
    for example in re.findall(r"```toml\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)
]
GOOD = {"task": "upstream", "url": "http://127.0.0.1:8080/v1"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_documented_example_is_valid(example: str) -> None:
    settings = Settings.model_validate(tomllib.loads(example))
    assert {model.task for model in settings.models.values()} <= {"upstream", "embed", "generate"}


def test_the_page_has_an_example_for_every_supported_server() -> None:
    page = (PAGES / "upstream.md").read_text(encoding="utf-8")
    assert all(f"\n{name}:\n" in page for name in ("vLLM", "llama.cpp", "Ollama", "LM Studio", "transformers"))


def test_the_url_is_used_as_the_source() -> None:
    assert ModelSettings.model_validate(GOOD).source == GOOD["url"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"task": "upstream"}, "url: task upstream takes the address of a server"),
        (GOOD | {"source": "x"}, "source: task upstream takes no source"),
        (GOOD | {"url": "ftp://host"}, "takes http:// or https://"),
        (GOOD | {"url": "http://127.0.0.1:99999/v1"}, "a port from 1 to 65535"),
        (GOOD | {"url": "http://127.0.0.1:0/v1"}, "a port from 1 to 65535"),
        (GOOD | {"url": "http://:80/v1"}, "takes a host"),
        (GOOD | {"url": "http://[::1/v1"}, "takes a host"),
        (GOOD | {"url": "http://user:pw@h/v1"}, "takes no user and no password"),
        (GOOD | {"url": "http://us[er:pw@h/v1"}, "takes no user and no password"),
        (GOOD | {"cache_tokens": 64}, "cache_tokens: is a setting of task generate only"),
        (GOOD | {"dtype": "float32"}, "dtype: is a setting of tasks embed, classify"),
        (GOOD | {"buckets": [32]}, "buckets: is a setting of tasks embed, classify"),
        (GOOD | {"max_concurrency": 0}, "greater than or equal to 1"),
        (GOOD | {"api_key_env": "sk-1234"}, "api_key_env"),
        ({"task": "embed", "source": "x", "url": "http://host"}, "url: is a setting of task upstream only"),
    ],
)
def test_an_invalid_upstream_setting_is_refused_by_name(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        ModelSettings.model_validate(table)
