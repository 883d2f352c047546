"""How the scripts of one model are called: by themselves, behind a wait, or in one transaction with plain commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.commands.core import Script
from redis.exceptions import NoScriptError

from windrow.scheduler.queue.keys import KEY_NAMES, queue_key
from windrow.scheduler.queue.scripts import load_scripts


class ScriptCalls:
    """Safe to share between threads. Redis errors pass through as `redis.exceptions.RedisError`."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._redis = redis
        self._keys = [queue_key(model, name) for name in KEY_NAMES]
        self._loaded: dict[str, Script] | None = None

    def run(self, script: str, more_keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """The reply of one script."""
        return self._script(script)(keys=[*self._keys, *more_keys], args=arguments)

    def run_woken(self, script: str, arguments: Sequence[Any], wait_s: float, wake: Sequence[str]) -> Any:
        """The same, as soon as one of the lists ``wake`` has a token, or after ``wait_s`` seconds; one round trip."""
        # The token is only a hint, so the script runs either way, as soon as Redis lets go of this connection.
        pipe = self._redis.pipeline(transaction=False)
        pipe.blpop(list(wake), timeout=wait_s)
        self._add(pipe, script, [], arguments)
        woken, reply = pipe.execute(raise_on_error=False)
        if isinstance(reply, NoScriptError):
            reply = self.run(script, [], arguments)
        for answer in (reply, woken):
            if isinstance(answer, Exception):
                raise answer
        return reply

    def run_stored(
        self, fields: Mapping[Any, Any], key: str, script: str, more_keys: Sequence[str], arguments: Sequence[Any]
    ) -> Any:
        """The same, after ``fields`` were set in the hash ``key``, in one transaction."""
        pipe = self._redis.pipeline(transaction=True)
        try:
            pipe.hset(key, mapping=fields)
            self._add(pipe, script, more_keys, arguments)
            return pipe.execute()[-1]
        except NoScriptError:
            # All of it again: by now another server may be the master.
            pipe.script_load(self._script(script).script)
            pipe.hset(key, mapping=fields)
            self._add(pipe, script, more_keys, arguments)
            return pipe.execute()[-1]

    def run_storing(
        self,
        first: tuple[str, Sequence[Any]],
        gone: tuple[Sequence[str], Sequence[str]],
        documents: Mapping[Any, Any],
        then: tuple[str, Sequence[Any]],
    ) -> Any:
        """The reply of the script ``first``; then fields go from hashes, ``documents`` are set, and ``then`` runs.

        ``gone`` is the hashes and the fields of each. It is one transaction. Both scripts are loaded in it, each time:
        a Redis that had forgotten one would still do the rest.
        """
        pipe = self._redis.pipeline(transaction=True)
        for script, _ in (first, then):
            pipe.script_load(self._script(script).script)
        self._add(pipe, first[0], [], first[1])
        for key in gone[0]:
            pipe.hdel(key, *gone[1])
        pipe.mset(documents)
        self._add(pipe, then[0], [], then[1])
        return pipe.execute()[2]

    def _add(self, pipe: Pipeline, script: str, more_keys: Sequence[str], arguments: Sequence[Any]) -> None:
        pipe.evalsha(self._script(script).sha, len(self._keys) + len(more_keys), *self._keys, *more_keys, *arguments)

    def _script(self, name: str) -> Script:
        if self._loaded is None:
            self._loaded = load_scripts(self._redis)
        return self._loaded[name]
