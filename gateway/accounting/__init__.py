"""Exactly-once accounting: a journal that survives ``kill -9``, and the ledger that carries it into SQL."""
