"""The synthetic engine: makes up tokens at a configured speed, behind vLLM's HTTP interface and metric names."""
