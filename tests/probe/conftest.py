"""Fixtures of the probe tests."""

from tests.support.browser import browser

__all__ = ["browser"]
