"""Generation: every strategy, and through the queue."""
