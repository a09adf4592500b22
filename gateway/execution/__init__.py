"""How a plan is carried out: which target is tried when, and how its answer reaches the caller."""
