"""Memory: texts that one AI leaves for another, kept in the ledger and found again by meaning.

The record is in the ledger (`ledger/memories.py`); what is here makes vectors of it (`embedding`) and searches them (`index`):
those of older memories in sealed Chroma collections (`segment`), those of the newest in this process (`tail`).
"""
