"""What was measured of each target: load, latency, answer lengths, health. State, keyed by target id."""
