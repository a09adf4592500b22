"""The test ground: a scripted upstream, builders and virtual time. Support for tests, not tests."""
