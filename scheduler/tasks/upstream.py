"""The task ``upstream``: the input of `generate`, for an OpenAI-compatible server that has model and tokenizer."""

from __future__ import annotations

from windrow.errors import InvalidInput
from windrow.scheduler.tasks.base import Task, Text
from windrow.scheduler.tasks.generate import GENERATE, GenerateParameters, Prompt


def _texts(value: object, parameters: GenerateParameters, where: str) -> list[Text]:
    if parameters.truncate:
        raise InvalidInput("parameters.truncate: the upstream server does not cut prompts; shorten the input")
    return GENERATE.texts(value, parameters, where)


UPSTREAM = Task(
    "upstream", GenerateParameters, _texts, input=Prompt, extra_tokens=GENERATE.extra_tokens, streams=True,
    parse_input=GENERATE.parse_input,
    has_tokenizer=False,
)  # fmt: skip
