"""Filters: ``by_request`` looks at what the call asks for, ``by_target`` at what the target is and how it fares."""
