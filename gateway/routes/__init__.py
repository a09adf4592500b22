"""The HTTP server for callers and operators, and its pages. Nothing about a request is decided here."""
