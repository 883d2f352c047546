"""Waiting for results and following event streams, with one Redis subscription per process for each of both."""
