"""The peer in comparisons: plain Celery, one task per text."""
