"""Parameters of tests."""

from typing import Any

import pytest


def also_long(value: Any) -> Any:
    """Mark one parameter of a test `long`: others of its kind stay in `make test`."""
    return pytest.param(value, marks=pytest.mark.long)
