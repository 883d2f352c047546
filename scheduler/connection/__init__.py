"""Connections to Redis: plain, over TLS, or through Sentinel."""
