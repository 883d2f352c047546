"""``windrow dead list | show | retry | drop``: dead letters, read from Redis directly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.output import FAILED, UNREACHABLE, Json, errors_reported, fail, print_json

if TYPE_CHECKING:
    from windrow.scheduler.intake import Intake
    from windrow.scheduler.queue import DeadLetter, DeadLetters

dead_app = typer.Typer(
    name="dead", help="List, show, submit again or drop dead letters: requests that used up their attempts.",
    no_args_is_help=True,
)  # fmt: skip
Model = Annotated[str | None, typer.Option(help="Only dead letters of this model; by default those of all models.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters, instead of ids.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids as printed by `windrow dead list`.")]
#: Characters of an input that a list shows.
SHOWN_CHARACTERS = 60
#: Dead letters that Redis keeps of each model.
MAX_LETTERS = 1000
#: Dead letters that are read at a time, because their inputs may be long.
READ_AT_ONCE = 20
#: Ids that an error message lists.
LISTED_IDS = 5


@dead_app.command("list")
def list_(
    model: Model = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LETTERS, help="Maximum number of dead letters.")] = 100,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first."""
    with _opened(model, as_json) as (_, lists):
        letters = _newest(lists, limit)
    if as_json:
        return print_json([as_object(letter) for letter in letters])
    for letter in letters:
        print(f"{letter.id}  {when(letter.died_s)}  {letter.call()['model']}  {letter.tenant}  {letter.priority}")
        print(f"  reason   {reason(letter)}")
        print(f"  input    {shorten(letter.call()['input'])}")
    if not letters:
        print("no dead letters")


@dead_app.command()
def show(
    id: Annotated[str, typer.Argument(help="Id of a dead letter.")], model: Model = None, as_json: Json = False
) -> None:
    """Print one dead letter with its whole input."""
    with _opened(model, as_json) as (_, lists):
        (owner,) = _owners(lists, [id], as_json)
        letters = owner.find([id])
    if not letters:  # it was dropped meanwhile
        return fail("unknown_dead_letter", f"no dead letter {id}", FAILED, as_json)
    (letter,) = letters
    if as_json:
        return print_json(as_object(letter))
    call = letter.call()
    print(f"{letter.id}  {call['model']}  {letter.tenant}  {letter.priority}")
    print(f"  created  {when(letter.created_s)}")
    print(f"  died     {when(letter.died_s)}")
    print(f"  reason   {reason(letter)}")
    print(f"  params   {printable(call.get('parameters') or {})}")
    print(f"  input    {printable(call['input'])}")


@dead_app.command()
def retry(ids: Ids = None, every: All = False, model: Model = None, as_json: Json = False) -> None:
    """Submit dead letters again under new ids. The predictions with the old ids stay failed."""
    renamed: dict[str, str] = {}
    with _opened(model, as_json) as (intake, lists):
        from windrow.scheduler.intake.dead_letters import retry_dead_letters

        for owner, selected in _selected(lists, ids, every, as_json):
            renamed |= retry_dead_letters(intake, owner, selected)
    if as_json:
        return print_json({"retried": renamed})
    for old, new in renamed.items():
        print(f"{old} -> {new}")
    print(f"{len(renamed)} sent again")


@dead_app.command()
def drop(ids: Ids = None, every: All = False, model: Model = None, as_json: Json = False) -> None:
    """Delete dead letters with their inputs and reasons. Their predictions stay failed."""
    dropped = 0
    with _opened(model, as_json) as (_, lists):
        for owner, selected in _selected(lists, ids, every, as_json):
            dropped += owner.drop(selected)
    print_json({"dropped": dropped}) if as_json else print(f"{dropped} dropped")


def as_object(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as ``--json`` prints it."""
    call = letter.call()
    return {
        "id": letter.id,
        "model": call["model"],
        "tenant": letter.tenant,
        "priority": letter.priority,
        "input": call["input"],
        "parameters": call.get("parameters") or {},
        "error": letter.error,
        "created_at": when(letter.created_s),
        "died_at": when(letter.died_s),
    }


def when(seconds: float) -> str:
    """Return a time in ISO 8601, in UTC and whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reason(letter: DeadLetter) -> str:
    """Return the error of a dead letter as text."""
    return f"{letter.error.get('detail')} ({letter.error.get('code')})"


def printable(value: Any) -> str:
    """Return a client's value as one line of JSON, with everything escaped that could control a terminal."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def shorten(value: Any) -> str:
    """Return the first `SHOWN_CHARACTERS` characters of `printable`."""
    text = printable(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


@contextmanager
def _opened(model: str | None, as_json: bool) -> Iterator[tuple[Intake, list[DeadLetters]]]:
    """Connect to the Redis server of the settings; yield the intake, and the dead letters of each model asked for."""
    with errors_reported(as_json, "server"):
        from redis.exceptions import RedisError

        from windrow.errors import UnknownModel
        from windrow.scheduler.config.settings import load_settings
        from windrow.scheduler.connection.connect import connect
        from windrow.scheduler.intake import Intake
        from windrow.scheduler.queue import DeadLetters, RedisQueue

        settings = load_settings()
        if model is not None and model not in settings.models:
            raise UnknownModel(f"no model {model!r} is configured; there are {', '.join(settings.models)}")
        redis = connect(settings.redis_url)
        queues = {
            name: RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts)
            for name in settings.models
        }
        try:
            yield (
                Intake(settings, redis, queues),
                [DeadLetters(redis, name) for name in queues if model in (None, name)],
            )
        except RedisError as error:
            fail("redis_unavailable", f"Redis does not answer: {type(error).__name__}", UNREACHABLE, as_json)
        finally:
            redis.close()


def _newest(lists: Sequence[DeadLetters], limit: int) -> list[DeadLetter]:
    letters = [letter for each in lists for letter in each.newest(limit)]
    return sorted(letters, key=lambda letter: letter.died_s, reverse=True)[:limit]


def _selected(
    lists: Sequence[DeadLetters], ids: list[str] | None, every: bool, as_json: bool
) -> Iterator[tuple[DeadLetters, list[str]]]:
    """Yield the dead letters to change, a few at a time; the caller removes them before it asks for more."""
    if bool(ids) == every:
        raise ValueError("takes ids, or --all, and not both")
    if ids:
        yield from zip(_owners(lists, ids, as_json), ([id] for id in ids), strict=True)
        return
    for owner in lists:
        # Bounded, because a request that is submitted again may become a dead letter again meanwhile.
        for _ in range(MAX_LETTERS // READ_AT_ONCE):
            selected = [letter.id for letter in owner.newest(READ_AT_ONCE)]
            if not selected:
                break
            yield owner, selected


def _owners(lists: Sequence[DeadLetters], ids: Sequence[str], as_json: bool) -> list[DeadLetters]:
    """Return the list that has each id; if an id is unknown, end the command before anything is changed."""
    owners = {id: owner for id in ids for owner in lists if owner.find([id])}
    missing = [id for id in ids if id not in owners]
    if missing:
        known = [letter.id for letter in _newest(lists, LISTED_IDS + 1)]
        there = f"there are {', '.join(known[:LISTED_IDS])}" if known else "there are none"
        more = ", and more: windrow dead list" if len(known) > LISTED_IDS else ""
        fail("unknown_dead_letter", f"no dead letter {', '.join(missing)}; {there}{more}", FAILED, as_json)
    return [owners[id] for id in ids]
