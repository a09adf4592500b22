"""Wire formats of callers and upstreams: foreign JSON, decoded once and otherwise left as bytes; see ``base``."""
