"""Windrow over HTTP: throughput, a lone client, and waiting clients."""
