"""OpenAI's Responses, as a dialect of callers."""
