"""A server with the policy that stands in, for a module."""

from __future__ import annotations

import pytest
from standing_in import serving


@pytest.fixture(scope="module")
def server():
    """Its address."""
    with serving() as url:
        yield url
