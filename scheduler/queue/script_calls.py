"""Calls of one model's scripts: alone, after a blocking wait, or in a transaction with plain commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.commands.core import Script
from redis.exceptions import NoScriptError

from windrow.scheduler.queue.keys import queue_key
from windrow.scheduler.queue.scripts import NAMES, load_scripts, source


class ScriptCalls:
    """Safe to share between threads. Redis errors pass through as `redis.exceptions.RedisError`.

    Every script receives the keys that its header names; ``extra_keys`` follow them.
    """

    def __init__(self, redis: Redis, model: str) -> None:
        self._redis = redis
        self._keys = {script: [queue_key(model, name) for name in source(script).keys] for script in NAMES}
        self._loaded: dict[str, Script] | None = None

    def run(self, script: str, arguments: Sequence[Any], extra_keys: Sequence[str] = ()) -> Any:
        """Run one script and return its reply."""
        return self._script(script)(keys=[*self._keys[script], *extra_keys], args=arguments)

    def run_woken(self, script: str, arguments: Sequence[Any], wait_s: float, lists: Sequence[str]) -> Any:
        """Run a script as soon as one of ``lists`` has an element, or after ``wait_s`` seconds, in one round trip."""
        # The element is only a hint, so the script runs in either case, as soon as Redis unblocks this connection.
        pipe = self._redis.pipeline(transaction=False)
        pipe.blpop(list(lists), timeout=wait_s)
        self._add(pipe, script, arguments)
        woken, reply = pipe.execute(raise_on_error=False)
        if isinstance(reply, NoScriptError):
            reply = self.run(script, arguments)
        for answer in (reply, woken):
            if isinstance(answer, Exception):
                raise answer
        return reply

    def run_after_hset(
        self, key: str, fields: Mapping[Any, Any], script: str, arguments: Sequence[Any], extra_keys: Sequence[str]
    ) -> Any:
        """Set fields of a hash, then run a script, in one transaction; return the script's reply."""
        pipe = self._redis.pipeline(transaction=True)
        try:
            pipe.hset(key, mapping=fields)
            self._add(pipe, script, arguments, extra_keys)
            return pipe.execute()[-1]
        except NoScriptError:
            # Set the fields again too, because another server may have become the master meanwhile.
            pipe.script_load(self._script(script).script)
            pipe.hset(key, mapping=fields)
            self._add(pipe, script, arguments, extra_keys)
            return pipe.execute()[-1]

    def run_around_mset(
        self,
        first: tuple[str, Sequence[Any]],
        deleted: tuple[Sequence[str], Sequence[str]],
        documents: Mapping[Any, Any],
        last: tuple[str, Sequence[Any]],
    ) -> Any:
        """Run the script ``first``, delete fields of hashes, set ``documents``, and run the script ``last``.

        ``deleted`` is (hashes, the fields to delete from each). All of it is one transaction, which loads both scripts
        every time: if one were unknown to Redis, the transaction would do the rest without it. Returns the reply of
        ``first``.
        """
        pipe = self._redis.pipeline(transaction=True)
        for script, _ in (first, last):
            pipe.script_load(self._script(script).script)
        self._add(pipe, *first)
        for key in deleted[0]:
            pipe.hdel(key, *deleted[1])
        pipe.mset(documents)
        self._add(pipe, *last)
        return pipe.execute()[2]

    def _add(self, pipe: Pipeline, script: str, arguments: Sequence[Any], extra_keys: Sequence[str] = ()) -> None:
        keys = self._keys[script]
        pipe.evalsha(self._script(script).sha, len(keys) + len(extra_keys), *keys, *extra_keys, *arguments)

    def _script(self, name: str) -> Script:
        if self._loaded is None:
            self._loaded = load_scripts(self._redis)
        return self._loaded[name]
