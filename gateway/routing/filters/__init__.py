"""Filters: ``by_request`` looks at what the call asks for, ``by_target`` at how the target fares."""
