"""A stack on one machine: Redis, the API, a worker and a housekeeping worker."""
