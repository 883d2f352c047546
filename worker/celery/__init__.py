"""What Celery runs: the app, its supervision of pool processes, message strategy and control commands."""
