"""Routing: which platform and model each task goes to, and why."""
