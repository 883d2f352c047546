"""Measures forward passes and decode steps on a device, and recommends settings."""
