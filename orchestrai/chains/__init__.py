"""Chains: what one AI answers is handed to the next, with its lineage and its cost."""
