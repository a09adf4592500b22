"""Tollway's gateway: one OpenAI-compatible endpoint in front of many language models."""
