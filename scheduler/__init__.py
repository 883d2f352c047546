"""What waits and what goes next: the pure core, the Redis queue, and the settings both sides read."""
