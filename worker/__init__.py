"""The GPU side: ``celery -A worker worker`` supervises resident loops that claim, batch, run and finish."""
