"""The chunks of a streamed answer, made from the events of its requests by pure functions of what was sent before.

A sent chunk cannot be revoked. If a request starts another attempt because its worker died, the new text is compared
with the sent text: as long as both are equal nothing is sent again, and the stream continues after it. If they differ,
the stream ends with an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from windrow.api.openai.answers import Kind, chat_logprobs, completion_logprobs, usage
from windrow.errors import AttemptsExhausted
from windrow.scheduler.queue.events import BEGINNING, OUTPUT, RESTART, START, Event, is_gap

Json = dict[str, Any]


@dataclass(slots=True)
class _StreamedChoice:
    """The sent text of one choice, and how much of it the current attempt has generated so far."""

    sent: str = ""
    sent_logprobs: int = 0
    seen_characters: int = 0
    seen_logprobs: int = 0
    has_begun: bool = False

    def restart(self) -> None:
        self.seen_characters = self.seen_logprobs = 0

    def take(self, text: str, logprobs: Sequence[Json]) -> tuple[str, list[Json]]:
        """Return the unsent part of ``text`` and ``logprobs``; raises `AttemptsExhausted` if the sent part differs."""
        repeated = self.sent[self.seen_characters : self.seen_characters + len(text)]
        if not text.startswith(repeated):
            raise AttemptsExhausted("the worker died, and the next attempt generated another text; send the call again")
        self.seen_characters += len(text)
        fresh_logprobs = list(logprobs[max(0, self.sent_logprobs - self.seen_logprobs) :])
        self.seen_logprobs += len(logprobs)
        self.sent_logprobs = max(self.sent_logprobs, self.seen_logprobs)
        fresh = text[len(repeated) :]
        self.sent += fresh
        return fresh, fresh_logprobs


@dataclass(slots=True)
class Chunks:
    """Makes the chunks of one request."""

    kind: Kind
    #: The fields that all chunks share; see `windrow.api.openai.answers.head`.
    head: Json
    #: Index of the request's first choice in the whole call, and the number of its choices.
    first: int
    count: int
    #: Whether a last chunk has the usage; all others then have ``usage: null``.
    includes_usage: bool = False
    place: str = BEGINNING
    #: Whether events are missing; the last chunk then has the rest of the text.
    is_behind: bool = False
    choices: list[_StreamedChoice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.choices = [_StreamedChoice() for _ in range(self.count)]

    def from_event(self, event: Event) -> list[Json]:
        """Return the chunks of the next event; raises `AttemptsExhausted` if the stream cannot continue."""
        self.is_behind = self.is_behind or is_gap(self.place, event)
        self.place = event.place
        if event.type in (START, RESTART):
            self.is_behind = False
            for choice in self.choices:
                choice.restart()
        if event.type != OUTPUT or self.is_behind:
            return []
        output = orjson.loads(event.data)
        return self._text_chunks(output["index"], output["text"], output.get("logprobs"))

    def from_output(self, output: Json) -> list[Json]:
        """Return the last chunks, from the whole output: the unsent rest of each choice, and its finish reason."""
        chunks = []
        for index, whole in enumerate(output.get("choices") or [output]):
            self.choices[index].restart()
            chunks += self._text_chunks(index, whole["text"], whole.get("logprobs"))
            chunks.append(self._chunk(index, {} if self.kind == "chat" else "", None, whole["finish_reason"]))
        return chunks

    def _text_chunks(self, index: int, text: str, logprobs: Sequence[Json] | None) -> list[Json]:
        choice, chunks = self.choices[index], []
        offset = len(choice.sent)
        fresh, entries = choice.take(text, logprobs or ())
        if self.kind == "chat":
            if not choice.has_begun:
                chunks.append(self._chunk(index, {"role": "assistant", "content": ""}, None, None))
            shown = chat_logprobs(entries) if entries else None
        else:
            shown = completion_logprobs(entries, offset) if entries else None
        choice.has_begun = True
        if fresh or entries:
            chunks.append(self._chunk(index, {"content": fresh} if self.kind == "chat" else fresh, shown, None))
        return chunks

    def _chunk(self, index: int, content: Json | str, logprobs: Json | None, finish_reason: str | None) -> Json:
        choice = {
            "index": self.first + index,
            "delta" if self.kind == "chat" else "text": content,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return make_chunk(self.kind, self.head, [choice]) | ({"usage": None} if self.includes_usage else {})


def make_chunk(kind: Kind, head: Json, choices: Sequence[Json]) -> Json:
    """Return a chunk with ``choices``."""
    name = "chat.completion.chunk" if kind == "chat" else "text_completion"
    return {**head, "object": name, "choices": list(choices)}


def usage_chunk(kind: Kind, head: Json, outputs: Sequence[Json]) -> Json:
    """Return the chunk with the usage of the whole call, sent before ``[DONE]`` on request."""
    return make_chunk(kind, head, []) | {"usage": usage(outputs)}
