"""One table of what gateways cost: see docs/reference/bench.md, and ``python -m loadtests.bench --help``."""
