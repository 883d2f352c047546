"""Queues no-op tasks of plain Celery. Run by `run_part`."""

from __future__ import annotations

from typing import Any

from benchmarks.celery_peer.app import app, nothing
from windrow.bench.programs import part


def send(spec: dict[str, Any]) -> int:
    """Send ``items`` tasks over one connection, and return their number."""
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for _ in range(spec["items"]):
            nothing.apply_async((spec["payload"],), producer=producer)
    return int(spec["items"])


if __name__ == "__main__":
    part(send)
