"""Decisions, the queue in Redis, tasks and settings: what the API and the worker share."""

if __name__ == "scheduler":  # a checkout on sys.path: the modules have one name each, `windrow.scheduler.*`
    __path__ = []
