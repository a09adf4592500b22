"""The ``workers:`` section of the configuration file: its schema, its problems, its reference page."""
