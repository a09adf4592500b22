"""The only place that touches sockets towards upstreams."""
