"""Platforms: the places that answer, each with one account."""
