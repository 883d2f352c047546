"""``windrow dead list | show | retry | drop``: requests that were given up. These commands talk to Redis itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windrow.cli.output import FAILED, UNREACHABLE, Json, errors_reported, fail, print_json

if TYPE_CHECKING:
    from windrow.scheduler.queue import DeadLetter, RedisQueue

dead_app = typer.Typer(
    name="dead", help="Look at requests that were given up, send them again, drop them.", no_args_is_help=True
)
Model = Annotated[str | None, typer.Option(help="Only of this model; of all configured ones where it is left out.")]
All = Annotated[bool, typer.Option("--all", help="All of them, instead of ids.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids as `windrow dead list` prints them.")]
#: Characters of an input that a list shows.
SHOWN_CHARACTERS = 60
#: Letters that a model keeps, and that are read at a time: inputs may be long.
KEPT, READ = 1000, 20
#: Ids that an error names.
NAMED = 5


@dead_app.command("list")
def list_(
    model: Model = None,
    limit: Annotated[int, typer.Option(min=1, max=KEPT, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """List the requests that were given up, newest first."""
    with _queues(model, as_json) as queues:
        letters = _newest(queues, limit)
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
    """Print one dead letter, its whole input too."""
    with _queues(model, as_json) as queues:
        (queue,) = _owners(queues, [id], as_json)
        letter = queue.dead_letter(id)
    if letter is None:  # dropped this moment
        return fail("unknown_dead_letter", f"no dead letter {id}", FAILED, as_json)
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
    """Send dead letters again, under new ids: the end of the old ones stays what it was."""
    renamed: dict[str, str] = {}
    with _queues(model, as_json) as queues:
        for queue, some in _selected(queues, ids, every, as_json):
            renamed |= queue.retry_dead(some)
    if as_json:
        return print_json({"retried": renamed})
    for old, new in renamed.items():
        print(f"{old} -> {new}")
    print(f"{len(renamed)} sent again")


@dead_app.command()
def drop(ids: Ids = None, every: All = False, model: Model = None, as_json: Json = False) -> None:
    """Forget dead letters, input and reason; their predictions stay failed."""
    dropped = 0
    with _queues(model, as_json) as queues:
        for queue, some in _selected(queues, ids, every, as_json):
            dropped += queue.drop_dead(some)
    print_json({"dropped": dropped}) if as_json else print(f"{dropped} dropped")


def as_object(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as ``--json`` prints it."""
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
    """ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reason(letter: DeadLetter) -> str:
    """Why it was given up, for people."""
    return f"{letter.error.get('detail')} ({letter.error.get('code')})"


def printable(value: Any) -> str:
    """A value of a client's as JSON on one line; what could steer a terminal is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text)


def shorten(value: Any) -> str:
    """The start of `printable`."""
    text = printable(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


@contextmanager
def _queues(model: str | None, as_json: bool) -> Iterator[list[RedisQueue]]:
    """The queues of the models asked for, on the Redis of the settings."""
    with errors_reported(as_json, "server"):
        from redis.exceptions import RedisError

        from windrow.errors import UnknownModel
        from windrow.scheduler.config.settings import load_settings
        from windrow.scheduler.connection.connect import connect
        from windrow.scheduler.queue import RedisQueue

        settings = load_settings()
        if model is not None and model not in settings.models:
            raise UnknownModel(f"no model {model!r} is configured; there are {', '.join(settings.models)}")
        redis = connect(settings.redis_url)
        try:
            yield [
                RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts)
                for name in (settings.models if model is None else [model])
            ]
        except RedisError as error:
            fail("redis_unavailable", f"Redis does not answer: {type(error).__name__}", UNREACHABLE, as_json)
        finally:
            redis.close()


def _newest(queues: Sequence[RedisQueue], limit: int) -> list[DeadLetter]:
    letters = [letter for queue in queues for letter in queue.dead_letters(limit)]
    return sorted(letters, key=lambda letter: letter.died_s, reverse=True)[:limit]


def _selected(
    queues: Sequence[RedisQueue], ids: list[str] | None, every: bool, as_json: bool
) -> Iterator[tuple[RedisQueue, list[str]]]:
    """What is to be changed, a few at a time; each few have to leave before the next are asked for."""
    if bool(ids) == every:
        raise ValueError("takes ids, or --all, and not both")
    if ids:
        yield from zip(_owners(queues, ids, as_json), ([id] for id in ids), strict=True)
        return
    for queue in queues:
        # No more than there can have been at the start: what is sent again may die again meanwhile.
        for _ in range(KEPT // READ):
            some = [letter.id for letter in queue.dead_letters(READ)]
            if not some:
                break
            yield queue, some


def _owners(queues: Sequence[RedisQueue], ids: Sequence[str], as_json: bool) -> list[RedisQueue]:
    """The queue of each id; ends the command, before anything was changed, where one is nowhere."""
    owners = {id: queue for id in ids for queue in queues if queue.dead_letter(id) is not None}
    missing = [id for id in ids if id not in owners]
    if missing:
        known = [letter.id for letter in _newest(queues, NAMED + 1)]
        there = f"there are {', '.join(known[:NAMED])}" if known else "there are none"
        more = ", and more: windrow dead list" if len(known) > NAMED else ""
        fail("unknown_dead_letter", f"no dead letter {', '.join(missing)}; {there}{more}", FAILED, as_json)
    return [owners[id] for id in ids]
