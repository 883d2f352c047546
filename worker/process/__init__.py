"""State that a pool process shares with its parent: progress, stop level, requested changes; and its threads."""
