"""The state of each target, by its id: measured latency, load and answer lengths; breaker; replicas."""
