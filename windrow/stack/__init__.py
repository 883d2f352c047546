"""The whole stack on one machine: Redis, API, worker and housekeeping."""
