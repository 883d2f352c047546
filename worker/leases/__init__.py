"""Leases of claimed requests: acquire, renew, release, retry."""
