"""Thin HTTP: what callers and operators can reach. Nothing is decided here."""
