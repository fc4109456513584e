"""Ledger: every task, attempt and cent, durable before it is shown."""
