"""OpenAI's Responses, as a dialect of callers and as an upstream's format."""
