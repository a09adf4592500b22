"""How a database of an earlier release becomes this one's, a revision at a time."""
