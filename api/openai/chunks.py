"""From the events of requests to the chunks of a stream, as pure functions of what came so far.

A chunk cannot be taken back. Where a request begins anew, because its worker died, what was sent is compared with what
comes again: equal text is passed over and the stream goes on behind it; other text ends the stream.
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
    """What was sent of one choice, and how much of that came again since its request began anew."""

    sent: str = ""
    sent_logprobs: int = 0
    seen_characters: int = 0
    seen_logprobs: int = 0
    has_begun: bool = False

    def restart(self) -> None:
        self.seen_characters = self.seen_logprobs = 0

    def take(self, text: str, logprobs: Sequence[Json]) -> tuple[str, list[Json]]:
        """What of the next piece was not sent before; raises where it says something else than what was."""
        again = self.sent[self.seen_characters : self.seen_characters + len(text)]
        if not text.startswith(again):
            raise AttemptsExhausted("the worker died, and the text that came again is another one; send the call again")
        self.seen_characters += len(text)
        fresh_logprobs = list(logprobs[max(0, self.sent_logprobs - self.seen_logprobs) :])
        self.seen_logprobs += len(logprobs)
        self.sent_logprobs = max(self.sent_logprobs, self.seen_logprobs)
        fresh = text[len(again) :]
        self.sent += fresh
        return fresh, fresh_logprobs


@dataclass(slots=True)
class Chunks:
    """The chunks of one request's stream."""

    kind: Kind
    #: What every chunk starts with; see `windrow.api.openai.answers.head`.
    head: Json
    #: Number of the first choice among those of the whole call, and how many there are.
    first: int
    count: int
    #: Every chunk has ``usage: null`` where one at the end will have it.
    includes_usage: bool = False
    place: str = BEGINNING
    #: Pieces were lost; the rest comes with the end.
    is_behind: bool = False
    choices: list[_StreamedChoice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.choices = [_StreamedChoice() for _ in range(self.count)]

    def of(self, event: Event) -> list[Json]:
        """The chunks of the next event. Raises `AttemptsExhausted` where the stream cannot go on."""
        self.is_behind = self.is_behind or is_gap(self.place, event)
        self.place = event.place
        if event.type in (START, RESTART):
            self.is_behind = False
            for choice in self.choices:
                choice.restart()
        if event.type != OUTPUT or self.is_behind:
            return []
        piece = orjson.loads(event.data)
        return self._chunks(piece["index"], piece["text"], piece.get("logprobs"))

    def of_end(self, output: Json) -> list[Json]:
        """The last chunks: what was not sent yet of each choice, and why it ended."""
        made = []
        for index, whole in enumerate(output.get("choices") or [output]):
            self.choices[index].restart()
            made += self._chunks(index, whole["text"], whole.get("logprobs"))
            made.append(self._chunk(index, {} if self.kind == "chat" else "", None, whole["finish_reason"]))
        return made

    def _chunks(self, index: int, text: str, logprobs: Sequence[Json] | None) -> list[Json]:
        choice, made = self.choices[index], []
        offset = len(choice.sent)
        fresh, entries = choice.take(text, logprobs or ())
        if self.kind == "chat":
            if not choice.has_begun:
                made.append(self._chunk(index, {"role": "assistant", "content": ""}, None, None))
            shown = chat_logprobs(entries) if entries else None
        else:
            shown = completion_logprobs(entries, offset) if entries else None
        choice.has_begun = True
        if fresh or entries:
            made.append(self._chunk(index, {"content": fresh} if self.kind == "chat" else fresh, shown, None))
        return made

    def _chunk(self, index: int, said: Json | str, logprobs: Json | None, finish_reason: str | None) -> Json:
        choice = {
            "index": self.first + index,
            "delta" if self.kind == "chat" else "text": said,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return chunk(self.kind, self.head, [choice]) | ({"usage": None} if self.includes_usage else {})


def chunk(kind: Kind, head: Json, choices: Sequence[Json]) -> Json:
    """One chunk with those choices."""
    name = "chat.completion.chunk" if kind == "chat" else "text_completion"
    return {**head, "object": name, "choices": list(choices)}


def usage_chunk(kind: Kind, head: Json, outputs: Sequence[Json]) -> Json:
    """The chunk before the end, for who asked for it."""
    return chunk(kind, head, []) | {"usage": usage(outputs)}
