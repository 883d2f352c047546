"""Text generation: an engine whose batch changes at every decode step."""
