"""Plain Celery, one task per text, for comparison."""
