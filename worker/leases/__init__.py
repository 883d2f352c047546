"""Requests that this process has claimed: their leases, their preparation, and the isolation of poison requests."""
