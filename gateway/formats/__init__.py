"""Wire formats of callers and upstreams: everything that knows foreign JSON; see ``base`` for the interface."""
