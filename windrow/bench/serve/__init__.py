"""``windrow bench serve`` and ``sweep``: load on a running server."""
