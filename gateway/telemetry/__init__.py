"""What operators see: metrics and logs. It observes, and never takes part."""
