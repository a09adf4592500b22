"""OpenAI's API, as a caller's dialect and as an upstream's format."""
