"""Anthropic's Messages, on the upstream's side."""
