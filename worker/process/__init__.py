"""The life of one pool process: start, stop, progress, model changes."""
