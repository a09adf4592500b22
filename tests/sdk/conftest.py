"""Tests with the official SDKs: the shared cases explain their assertions as tests do."""

import pytest

pytest.register_assert_rewrite("tests.sdk.suite")
