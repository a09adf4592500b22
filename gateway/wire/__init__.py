"""Foreign JSON: the dialects of OpenAI and Anthropic, decoded once and otherwise left as bytes."""
