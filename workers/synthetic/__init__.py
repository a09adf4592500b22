"""An engine that makes tokens up at a configured speed, behind vLLM's HTTP interface and metric names."""
