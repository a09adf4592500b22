"""Carries out a plan: which target is tried when, and how its answer reaches the caller."""
