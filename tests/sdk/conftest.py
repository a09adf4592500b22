"""Fixtures for tests with the official SDKs."""

import pytest

pytest.register_assert_rewrite("tests.sdk.suite")
