"""A net of the user's own."""

import pytest
from transfer.opened import NET


@pytest.fixture
def net(tmp_path):
    """The text that names it."""
    (tmp_path / "own.py").write_text(NET)
    return f"{tmp_path}/own.py:Net"
