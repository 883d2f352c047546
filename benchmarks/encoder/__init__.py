"""Encoders through the queue beside the device alone."""
