"""Parses the chunks of an OpenAI-compatible server, and validates every field, because the server is not trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
#: Largest accepted number of tokens; sums of larger numbers would not fit into Redis.
MAX_TOKENS = 1_000_000_000


@dataclass(slots=True)
class ChunkChoice:
    """The new output of one choice in one chunk."""

    index: int
    text: str
    logprobs: list[Json]
    #: ``stop`` or ``length``; None if the choice continues.
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers of tokens so far, or of the whole answer; None if the server does not report them."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None


def read_choices(chunk: Json, choices: int, *, with_logprobs: bool) -> list[ChunkChoice]:
    """Return the new output in a chunk of an answer with ``choices`` choices. Raises `ValueError` if it is invalid."""
    entries = [_object(entry, "choices[]") for entry in _list(chunk.get("choices"), "choices")]
    return [_read_choice(entry, choices, with_logprobs) for entry in entries]


def read_usage(chunk: Json) -> Usage | None:
    """Return the usage in a chunk, or None without one or with nulls only. Raises `ValueError` if it is invalid."""
    if chunk.get("usage") is None:
        return None
    fields = _object(chunk["usage"], "usage")
    details = _object(fields.get("prompt_tokens_details"), "usage.prompt_tokens_details")
    usage = Usage(
        prompt=_count(fields, "prompt_tokens", MAX_TOKENS),
        completion=_count(fields, "completion_tokens", MAX_TOKENS),
        cached=_count(details, "cached_tokens", MAX_TOKENS),
    )
    return None if usage == Usage() else usage


def _read_choice(fields: Json, choices: int, with_logprobs: bool) -> ChunkChoice:
    reason = _text(fields.get("finish_reason"), "finish_reason")
    if "delta" in fields:
        text = _text(_object(fields["delta"], "delta").get("content"), "delta.content")
    else:
        text = _text(fields.get("text"), "text")
    return ChunkChoice(
        index=_count(fields, "index", choices - 1) or 0,
        text=text,
        logprobs=_logprobs(_object(fields.get("logprobs"), "logprobs")) if with_logprobs else [],
        # Some servers have reasons of their own.
        finish_reason=("length" if reason == "length" else "stop") if reason else None,
    )


def _logprobs(fields: Json) -> list[Json]:
    """Return log probabilities in the format of chats; completions send them in columns."""
    if "content" in fields:
        return [_entry(_object(entry, "logprobs.content[]")) for entry in _list(fields["content"], "logprobs.content")]
    tokens = _list(fields.get("tokens"), "logprobs.tokens")
    values = _list(fields.get("token_logprobs"), "token_logprobs")
    tops = _list(fields.get("top_logprobs"), "logprobs.top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(values) == len(tops):
        raise ValueError("an invalid chunk: logprobs takes columns of the same length")
    entries = []
    for token, value, top in zip(tokens, values, tops, strict=True):
        likeliest = [{"token": other, "logprob": logprob} for other, logprob in _object(top, "top").items()]
        entries.append(_entry({"token": token, "logprob": value, "top_logprobs": likeliest}))
    return entries


def _entry(fields: Json) -> Json:
    tops = _list(fields.get("top_logprobs"), "top_logprobs")
    return _top(fields) | {"top_logprobs": [_top(_object(top, "top_logprobs[]")) for top in tops]}


def _top(fields: Json) -> Json:
    """Return one token with its log probability, which some servers leave null for an impossible token."""
    token, logprob = fields.get("token"), fields.get("logprob")
    if not isinstance(token, str):
        raise _wrong("token", "a string", token)
    if logprob is not None and (isinstance(logprob, bool) or not isinstance(logprob, int | float)):
        raise _wrong("logprob", "a number", logprob)
    parts = _list(fields.get("bytes"), "bytes") or list(token.encode())
    if not all(type(part) is int and 0 <= part < 256 for part in parts):
        raise ValueError("an invalid chunk: bytes takes whole numbers from 0 to 255")
    return {"token": token, "logprob": -9999.0 if logprob is None else logprob, "bytes": parts}


def _count(fields: Json, name: str, most: int) -> int | None:
    value = fields.get(name)
    # Neither true nor 1.5 is a number of tokens.
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
    """Return an error that shows a number, or else only the type, because the value may be a user's text."""
    shown = str(value) if isinstance(value, int | float) else type(value).__name__
    return ValueError(f"an invalid chunk: {name} takes {takes}, not {shown}")
