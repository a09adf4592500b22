"""Metrics and logs for operators. They observe, and change nothing."""
