"""What a chunk of an OpenAI-compatible server says. It comes from outside, so nothing of it is taken as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
#: Above this a count of tokens is nonsense, and sums of it would not fit into Redis.
MOST_TOKENS = 1_000_000_000


@dataclass(slots=True)
class ChunkChoice:
    """What one chunk says of one choice."""

    index: int
    text: str
    logprobs: list[Json]
    #: ``stop`` or ``length``; None while it goes on.
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far, or of the whole answer; None for what the server does not say."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None


def read_choices(chunk: Json, choices: int, *, with_logprobs: bool) -> list[ChunkChoice]:
    """What is new of each of so many ``choices``. Raises `ValueError` for what is not OpenAI's."""
    said = [_object(one, "choices[]") for one in _list(chunk.get("choices"), "choices")]
    return [_news(one, choices, with_logprobs) for one in said]


def read_usage(chunk: Json) -> Usage | None:
    """The usage that the chunk tells; None where it has none, or only nulls. Raises `ValueError`."""
    if chunk.get("usage") is None:
        return None
    said = _object(chunk["usage"], "usage")
    details = _object(said.get("prompt_tokens_details"), "usage.prompt_tokens_details")
    usage = Usage(
        prompt=_count(said, "prompt_tokens", MOST_TOKENS),
        completion=_count(said, "completion_tokens", MOST_TOKENS),
        cached=_count(details, "cached_tokens", MOST_TOKENS),
    )
    return None if usage == Usage() else usage


def _news(said: Json, choices: int, with_logprobs: bool) -> ChunkChoice:
    reason = _text(said.get("finish_reason"), "finish_reason")
    if "delta" in said:
        text = _text(_object(said["delta"], "delta").get("content"), "delta.content")
    else:
        text = _text(said.get("text"), "text")
    return ChunkChoice(
        index=_count(said, "index", choices - 1) or 0,
        text=text,
        logprobs=_logprobs(_object(said.get("logprobs"), "logprobs")) if with_logprobs else [],
        # Some servers name reasons of their own.
        finish_reason=("length" if reason == "length" else "stop") if reason else None,
    )


def _logprobs(said: Json) -> list[Json]:
    """Log probabilities as chats have them; completions have them in columns."""
    if "content" in said:
        return [_entry(_object(one, "logprobs.content[]")) for one in _list(said["content"], "logprobs.content")]
    tokens, values = _list(said.get("tokens"), "logprobs.tokens"), _list(said.get("token_logprobs"), "token_logprobs")
    tops = _list(said.get("top_logprobs"), "logprobs.top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(values) == len(tops):
        raise ValueError("a chunk that is not OpenAI's: logprobs takes columns of the same length")
    return [
        _top({"token": token, "logprob": value})
        | {"top_logprobs": [_top({"token": other, "logprob": one}) for other, one in _object(top, "top").items()]}
        for token, value, top in zip(tokens, values, tops, strict=True)
    ]


def _entry(said: Json) -> Json:
    tops = _list(said.get("top_logprobs"), "top_logprobs")
    return _top(said) | {"top_logprobs": [_top(_object(top, "top_logprobs[]")) for top in tops]}


def _top(said: Json) -> Json:
    """One token with its log probability, which some leave null for one that cannot be."""
    token, logprob = said.get("token"), said.get("logprob")
    if not isinstance(token, str):
        raise _wrong("token", "a string", token)
    if logprob is not None and (isinstance(logprob, bool) or not isinstance(logprob, int | float)):
        raise _wrong("logprob", "a number", logprob)
    parts = _list(said.get("bytes"), "bytes") or list(token.encode())
    if not all(type(one) is int and 0 <= one < 256 for one in parts):
        raise ValueError("a chunk that is not OpenAI's: bytes takes whole numbers from 0 to 255")
    return {"token": token, "logprob": -9999.0 if logprob is None else logprob, "bytes": parts}


def _count(said: Json, name: str, most: int) -> int | None:
    value = said.get(name)
    # True would be one, and 1.5 is none that can be added up.
    if value is not None and (type(value) is not int or not 0 <= value <= most):
        raise _wrong(name, f"a whole number from 0 to {most}", value)
    return value


def _text(value: object, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "a string or null", value)
    return value or ""


def _object(value: object, name: str) -> Json:
    if value is not None and not isinstance(value, dict):
        raise _wrong(name, "an object or null", value)
    return value or {}


def _list(value: object, name: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise _wrong(name, "an array or null", value)
    return value or []


def _wrong(name: str, takes: str, value: object) -> ValueError:
    """Numbers are shown; of all else the type, since it may be somebody's text."""
    shown = str(value) if isinstance(value, int | float) else type(value).__name__
    return ValueError(f"a chunk that is not OpenAI's: {name} takes {takes}, not {shown}")
