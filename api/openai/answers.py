"""From ended requests to OpenAI's objects, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

Json = dict[str, Any]
#: Of the two routes that generate.
Kind = Literal["chat", "completion"]


def embeddings(model: str, outputs: Sequence[Json], tokens: int) -> Json:
    """The answer of ``/v1/embeddings``; outputs in the order of the inputs, ``tokens`` of all of them."""
    data = [
        {"object": "embedding", "index": index, "embedding": output["embedding"]}
        for index, output in enumerate(outputs)
    ]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def generated(kind: Kind, head: Json, outputs: Sequence[Json]) -> Json:
    """The answer of a call: the choices of all prompts, the first prompt first; ``head`` is what `head` gives."""
    made = []
    for index, choice in choices(outputs):
        entries = choice.get("logprobs")
        if kind == "chat":
            said = {
                "message": {"role": "assistant", "content": choice["text"], "refusal": None},
                "logprobs": chat_logprobs(entries),
            }
        else:
            said = {"text": choice["text"], "logprobs": completion_logprobs(entries)}
        made.append({"index": index, **said, "finish_reason": choice["finish_reason"]})
    name = "chat.completion" if kind == "chat" else "text_completion"
    return {**head, "object": name, "choices": made, "usage": usage(outputs)}


def head(kind: Kind, id: str, created_s: float, model: str) -> Json:
    """What every object of one call starts with."""
    return {"id": f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{id}", "created": int(created_s), "model": model}


def choices(outputs: Sequence[Json]) -> Iterable[tuple[int, Json]]:
    """Every choice of every output with its index among all of them."""
    return enumerate(choice for output in outputs for choice in output.get("choices") or [output])


def usage(outputs: Iterable[Mapping[str, Any]]) -> Json:
    """The sums of all outputs."""
    said = [output["usage"] for output in outputs]
    prompt, made = (sum(one[name] for one in said) for name in ("prompt_tokens", "completion_tokens"))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(one.get("cached_tokens", 0) for one in said)},
    }


def chat_logprobs(entries: Sequence[Json] | None) -> Json | None:
    """Log probabilities as chats have them, which is how the task generate gives them."""
    return None if entries is None else {"content": list(entries), "refusal": None}


def completion_logprobs(entries: Sequence[Json] | None, offset: int = 0) -> Json | None:
    """Log probabilities as completions have them; ``offset`` is where the first token begins in the text.

    The token that was drawn is always among the likeliest, so these may be one more than were asked for.
    """
    if entries is None:
        return None
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {one["token"]: one["logprob"] for one in (*entry["top_logprobs"], entry)} for entry in entries
        ],
        "text_offset": offsets,
    }
