"""API keys, and the tenant of each request."""
