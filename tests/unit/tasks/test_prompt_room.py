"""API and worker agree on which prompts fit a model's context."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.tiny_llama import EOS, VOCABULARY, save_tiny_llama
from windrow.errors import WindrowError
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.intake.input_check import InputCheck
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.worker.engines.generation.constraints import SchemaCompiler
from windrow.worker.engines.generation.inputs import PromptPreparer

CONTEXT = 32
Sides = tuple[InputCheck, PromptPreparer]
TEXTS = st.text(st.sampled_from("ab \né"), max_size=2 * CONTEXT)
PLAIN = TEXTS | st.fixed_dictionaries({"prompt_ids": st.lists(st.integers(0, 9), min_size=1, max_size=2 * CONTEXT)})
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "developer"]), "content": TEXTS | st.just("<think>so</think> yes")}
)
CHATS = st.fixed_dictionaries({"messages": st.lists(TURNS, min_size=1, max_size=3)})
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(CONTEXT // 2, CONTEXT + 1),
        "min_tokens": st.integers(0, CONTEXT // 2),
        "truncate": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """Those of the API and of the worker, for one model."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("llama"), context_tokens=CONTEXT)
    limit = load_text_limit(str(folder))
    schemas = SchemaCompiler(limit.tokenizer, VOCABULARY, [EOS])
    prompts = PromptPreparer(limit, folder, CONTEXT, 4, schemas)
    return InputCheck(ModelSettings(task="generate", source=str(folder))), prompts


def refusals(sides: Sides, value: object, sent: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return the errors of API and worker for a request; None if it is accepted."""
    check, prompts = sides
    (prepared,) = prompts.prepare([value], [sent])
    of_worker = prepared.error.detail if isinstance(prepared, Failed) else None
    try:
        check.cost_tokens(value, check.read_parameters(sent), where="input")
    except WindrowError as error:
        return error.detail, of_worker
    return None, of_worker


@given(value=PLAIN, sent=PARAMETERS)
@example(value="a" * 33 * CONTEXT, sent={})
@example(value="a" * 33 * CONTEXT, sent={"max_tokens": CONTEXT})
@example(value="a" * 33 * CONTEXT, sent={"truncate": True})
def test_api_and_worker_refuse_a_prompt_with_the_same_error(sides: Sides, value: object, sent: dict[str, Any]) -> None:
    of_api, of_worker = refusals(sides, value, sent)
    assert of_api == of_worker


@given(value=CHATS, sent=PARAMETERS)
def test_the_api_refuses_no_chat_that_the_worker_accepts(sides: Sides, value: object, sent: dict[str, Any]) -> None:
    of_api, of_worker = refusals(sides, value, sent)
    assert of_worker is not None or of_api is None
