"""OpenAI's dialect, on the caller's side and the upstream's."""
