"""Objectives: orders of preference, one file each."""
