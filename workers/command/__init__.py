"""The commands: ``tollway up``, ``workers run|deploy|remove|status``, ``size``, and the workers' part of ``check``."""
