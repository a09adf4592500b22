"""Filters: by what the call asks for (``by_request``), what a target is (``demands``), how it fares (``health``)."""
