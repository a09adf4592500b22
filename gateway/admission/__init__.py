"""Whether a call may start now: rate, concurrency, and later money."""
