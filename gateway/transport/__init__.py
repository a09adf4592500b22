"""The HTTP client for upstreams, and the only code that opens sockets to them."""
