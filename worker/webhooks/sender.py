"""`WebhookSender`: claims due webhooks from Redis and posts each in its own thread.

Delivery is at least once: if a process dies after the receiver's response and before its write to Redis, the webhook is
sent again with the same ``webhook-id``.
"""

from __future__ import annotations

import http.client
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import orjson
from redis import Redis
from redis.exceptions import RedisError

from windrow.errors import InvalidInput
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.core import webhooks
from windrow.scheduler.core.addresses import Address
from windrow.scheduler.queue import Prediction, result_key
from windrow.scheduler.queue.lookup import find_prediction
from windrow.scheduler.queue.prediction import prediction_json
from windrow.scheduler.queue.webhooks import DueWebhook, WebhookQueue
from windrow.version import __version__
from windrow.worker.webhooks.pinned_post import Reply, post, resolve

log = logging.getLogger(__name__)
#: Maximum number of concurrent deliveries, in total and per tenant, so that slow receivers of one delay no other.
THREADS, THREADS_PER_TENANT = 32, 8
#: Delay of a webhook whose tenant has the maximum number of deliveries, in seconds.
TENANT_BUSY_S = 1.0
TIMEOUT_S = 10.0
#: A claimed webhook becomes due again after this time, in seconds: more than a slow DNS query and `TIMEOUT_S`.
VISIBILITY_S = 60.0
#: Interval between checks for due webhooks, and their duration after a hint, in seconds.
CHECK_EVERY_S, AWAKE_S = 0.5, 20.0

Resolve = Callable[[str, int], list[Address]]


class WebhookSender:
    """Sends due webhooks of every model for `AWAKE_S` seconds after each hint; one per process."""

    def __init__(
        self, settings: Settings, redis: Redis, *, resolve: Resolve = resolve, visibility_s: float = VISIBILITY_S
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._resolve = resolve
        self._visibility_s = visibility_s
        self._outboxes = [WebhookQueue(redis, model) for model in settings.models]
        self._threads = ThreadPoolExecutor(THREADS, "webhook")
        self._lock = threading.Lock()
        self._running = 0
        self._by_tenant: Counter[str] = Counter()
        self._ended = threading.Event()
        self._awake_until_s = 0.0
        self._checker: threading.Thread | None = None

    def hint(self) -> None:
        """Start checking for due webhooks, and return at once."""
        with self._lock:
            self._awake_until_s = time.monotonic() + AWAKE_S
            if self._checker is None:
                self._checker = threading.Thread(target=self._check, name="webhooks", daemon=True)
                self._checker.start()

    def close(self) -> None:
        """Stop checking, and wait for running deliveries."""
        with self._lock:
            self._awake_until_s = 0.0
            checker = self._checker
        if checker is not None:
            checker.join()
        if self._running:
            log.info("waiting for %d running webhook deliveries", self._running)
        self._threads.shutdown()

    def send_due(self) -> int:
        """Start deliveries of due webhooks in the free threads, and return how many were started."""
        started = 0
        for outbox in self._outboxes:
            free = THREADS - self._running
            for due in outbox.claim(free, visibility_s=self._visibility_s) if free > 0 else ():
                with self._lock:
                    self._running += 1
                self._threads.submit(self._run, outbox, due)
                started += 1
        return started

    def _check(self) -> None:
        while True:
            with self._lock:
                if time.monotonic() >= self._awake_until_s:
                    self._checker = None
                    return
            started = 0
            try:
                started = self.send_due()
            except RedisError as error:
                log.warning("webhooks wait for Redis: %s", type(error).__name__)
            except Exception:
                log.exception("the check for due webhooks failed")
            if not started:
                self._ended.wait(CHECK_EVERY_S)
                self._ended.clear()

    def _run(self, outbox: WebhookQueue, due: DueWebhook) -> None:
        try:
            self._handle(outbox, due)
        except RedisError as error:
            log.warning("webhook of %s: Redis failed (%s); it is sent again", due.id, type(error).__name__)
        except Exception:  # the webhook becomes due again, up to `MAX_TRIES` times
            log.exception("webhook of %s failed", due.id)
        finally:
            with self._lock:
                self._running -= 1
            self._ended.set()

    def _handle(self, outbox: WebhookQueue, due: DueWebhook) -> None:
        claimed_s = time.monotonic()
        prediction = find_prediction(self._redis, [outbox.model], due.id)
        kept_until_s = time.monotonic() + max(0, int(self._redis.pttl(result_key(due.id)))) / 1e3
        if prediction is None or not prediction.is_ended:
            return self._drop(outbox, due, "its result is no longer kept")
        if due.tries > webhooks.MAX_TRIES:
            return self._drop(outbox, due, f"{webhooks.MAX_TRIES} tries ended without a response")
        if not self._enter(prediction.tenant):
            outbox.postpone(due.id, TENANT_BUSY_S * random.uniform(0.5, 1.5), tries=due.tries - 1)
            return
        try:
            verdict = self._send(due, prediction, claimed_s, kept_until_s)
        finally:
            with self._lock:
                self._by_tenant[prediction.tenant] -= 1
        if isinstance(verdict, webhooks.RetryAt):
            outbox.postpone(due.id, verdict.after_s, tries=due.tries)
        elif isinstance(verdict, webhooks.GiveUp):
            self._drop(outbox, due, verdict.reason)
        else:
            outbox.done(due.id)

    def _enter(self, tenant: str) -> bool:
        with self._lock:
            if self._by_tenant[tenant] >= THREADS_PER_TENANT:
                return False
            self._by_tenant[tenant] += 1
            return True

    def _send(
        self, due: DueWebhook, prediction: Prediction, claimed_s: float, kept_until_s: float
    ) -> webhooks.Delivered | webhooks.RetryAt | webhooks.GiveUp:
        """Try one delivery, and decide what follows."""
        networks = self._settings.webhook_networks
        key = self._settings.webhook_key(prediction.tenant)
        if key is None:
            return webhooks.GiveUp("its tenant no longer has a webhook_secret")
        try:
            endpoint = webhooks.parse_url(due.url, networks)
        except InvalidInput as error:
            return webhooks.GiveUp(error.detail)
        body = orjson.dumps(prediction_json(prediction, self._settings.public_url or ""))
        reply: Reply | None = None
        try:
            addresses = self._resolve(endpoint.host, endpoint.port)
            refused = webhooks.refused_address(addresses, networks)
            if refused is not None:
                result = f"{refused} is not a public address"
            else:
                # Redis time, because the clock of this host may be wrong.
                timestamp_s = round(due.now_s + time.monotonic() - claimed_s)
                reply = post(endpoint, addresses, headers(key, due.id, timestamp_s, body), body, timeout_s=TIMEOUT_S)
                result = f"answered {reply.status}"
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            result = type(error).__name__
        verdict = webhooks.decide_next(
            None if reply is None else reply.status, due.tries, left_s=kept_until_s - time.monotonic(),
            jitter=random.random(), retry_after_s=None if reply is None else reply.retry_after_s,
        )  # fmt: skip
        level = logging.INFO if isinstance(verdict, webhooks.Delivered) else logging.WARNING
        then = f"; again in {verdict.after_s:.0f} s" if isinstance(verdict, webhooks.RetryAt) else ""
        log.log(level, "webhook of %s to %s, try %d: %s%s", due.id, endpoint.host, due.tries, result, then)
        return verdict

    def _drop(self, outbox: WebhookQueue, due: DueWebhook, reason: str) -> None:
        log.warning("webhook of %s is given up: %s", due.id, reason)
        outbox.done(due.id)


def headers(key: bytes, id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks 1.0.0 and the user agent."""
    return {
        "Content-Type": "application/json",
        "User-Agent": f"windrow-webhook/{__version__}",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": webhooks.signature(key, id, timestamp_s, body),
    }
