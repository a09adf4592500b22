"""What the way out of a replica costs: ``python -m loadtests.workers``."""
