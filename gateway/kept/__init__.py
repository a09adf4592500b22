"""Responses that are kept for later calls, encrypted: the one place where content rests on disk."""
