"""Anthropic's Messages, as a caller's dialect and as an upstream's format."""
