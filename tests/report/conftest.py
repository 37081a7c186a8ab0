"""What the tests of figures and of charts share."""

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def drawn_axes(monkeypatch):
    """The axes of the figure that is saved last."""
    seen = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (seen.append(self.axes), save(self, *a, **k)))
    return seen
