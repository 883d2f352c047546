"""Text generation with each strategy, and behind the queue."""
