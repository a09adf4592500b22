"""The configuration: one file, validated, turned into an immutable snapshot."""
