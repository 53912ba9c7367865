"""Parameters of tests."""

from typing import Any

import pytest


def also_long(*values: Any) -> Any:
    """Mark one set of parameters of a test `long`: others of its kind stay in `make test`."""
    return pytest.param(*values, marks=pytest.mark.long)
