"""What is probably cached of a prompt at each target, and what follows for its price and its time."""
