"""OpenAI's response objects, made from the outputs of finished requests by pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

Json = dict[str, Any]
#: The two routes that generate text.
Kind = Literal["chat", "completion"]


def embeddings(model: str, outputs: Sequence[Json], tokens: int) -> Json:
    """Return the answer of ``/v1/embeddings``: outputs in input order, and ``tokens`` of all inputs together."""
    data = [
        {"object": "embedding", "index": index, "embedding": output["embedding"]}
        for index, output in enumerate(outputs)
    ]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def generated(kind: Kind, head: Json, outputs: Sequence[Json]) -> Json:
    """Return the answer of a call that generates: the choices of all prompts, in order, after the fields of `head`."""
    choices = []
    for index, output in number_choices(outputs):
        entries = output.get("logprobs")
        if kind == "chat":
            content = {
                "message": {"role": "assistant", "content": output["text"], "refusal": None},
                "logprobs": chat_logprobs(entries),
            }
        else:
            content = {"text": output["text"], "logprobs": completion_logprobs(entries)}
        choices.append({"index": index, **content, "finish_reason": output["finish_reason"]})
    name = "chat.completion" if kind == "chat" else "text_completion"
    return {**head, "object": name, "choices": choices, "usage": usage(outputs)}


def head(kind: Kind, id: str, created_s: float, model: str) -> Json:
    """Return the fields that all objects of one call share."""
    return {"id": f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{id}", "created": int(created_s), "model": model}


def number_choices(outputs: Sequence[Json]) -> Iterable[tuple[int, Json]]:
    """Yield every choice of every output with its index in the whole call."""
    return enumerate(choice for output in outputs for choice in output.get("choices") or [output])


def usage(outputs: Iterable[Mapping[str, Any]]) -> Json:
    """Return the token counts of all outputs together."""
    usages = [output["usage"] for output in outputs]
    prompt, completion = (sum(counts[name] for counts in usages) for name in ("prompt_tokens", "completion_tokens"))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(counts.get("cached_tokens", 0) for counts in usages)},
    }


def chat_logprobs(entries: Sequence[Json] | None) -> Json | None:
    """Return log probabilities in the chat format, which is also the format of the task generate."""
    return None if entries is None else {"content": list(entries), "refusal": None}


def completion_logprobs(entries: Sequence[Json] | None, offset: int = 0) -> Json | None:
    """Return log probabilities in the completion format; ``offset`` is the first token's position in the text.

    ``top_logprobs`` always contains the sampled token, so it may have one entry more than the client asked for.
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
            {token["token"]: token["logprob"] for token in (*entry["top_logprobs"], entry)} for entry in entries
        ],
        "text_offset": offsets,
    }
