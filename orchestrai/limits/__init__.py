"""Limits: pure decisions about waiting, retrying and how much at once."""
