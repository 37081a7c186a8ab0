import io
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from spermseg.errors import ConfigError
from spermseg.report import charts


def test_a_history_without_an_epoch_is_refused():
    with pytest.raises(ConfigError, match="without any epoch"):
        charts.curves_figure([{"val_dice": 0.5}])


def test_curves_skip_what_is_missing_and_mark_the_best_epoch(drawn_axes):
    history = [
        {"epoch": 1, "train_loss": 0.7, "val_loss": 0.8, "train_dice": 0.2, "val_dice": 0.1, "val_iou": 0.1},
        {
            "epoch": 2,
            "train_loss": 0.5,
            "val_loss": math.nan,
            "train_dice": 0.5,
            "val_dice": 0.6,
            "val_iou": 0.3,
        },
        {"epoch": 3, "train_loss": 0.4, "val_loss": 0.6, "val_dice": 0.4, "val_iou": None},
    ]
    png = charts.curves_figure(history)
    assert Image.open(io.BytesIO(png)).format == "PNG"
    lines = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in drawn_axes[-1]]
    assert lines[0]["training"] == [[1, 0.7], [2, 0.5], [3, 0.4]]
    assert lines[0]["validation"] == [[1, 0.8], [3, 0.6]]
    assert lines[1]["validation"] == [[1, 0.1], [2, 0.3]]
    assert "training" not in lines[1]
    assert lines[2]["training"] == [[1, 0.2], [2, 0.5]]
    assert all("best epoch (2)" in panel for panel in lines)


def test_curves_of_a_training_without_scores_have_no_best_epoch(drawn_axes):
    charts.curves_figure([{"epoch": 1, "train_loss": 0.7}])
    assert not any("best" in line.get_label() for axes in drawn_axes[-1] for line in axes.lines)


@settings(max_examples=15, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6) | st.integers(0, 2000) | st.just(math.nan), max_size=60))
def test_a_histogram_counts_every_finite_value_once(values):
    seen = []
    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, *a, **k: (seen.append(self.axes[0]), save(self, *a, **k)))
        png = charts.histogram_figure(values, label="cells")
    assert Image.open(io.BytesIO(png)).format == "PNG"
    bars = [bar.get_height() for bar in seen[0].patches]
    assert sum(bars) == np.isfinite(values).sum()
    assert len(bars) <= 31


def test_the_share_of_values_that_failed_is_said_and_the_limit_is_marked(drawn_axes):
    charts.histogram_figure([0.2, 0.5, 0.7, 0.9], label="IoU", failed_below=0.5)
    (axes,) = drawn_axes[-1]
    assert axes.get_title("left") == "25% below 0.5"
    assert [float(line.get_xdata()[0]) for line in axes.lines] == pytest.approx([0.6, 0.5])


def test_drawing_leaves_the_global_state_of_matplotlib_alone():
    code = (
        "import sys; from spermseg.report.charts import curves_figure; curves_figure([{'epoch': 1}]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_chart_of_confidence_shows_every_picture_and_the_curve(drawn_axes):
    risk = [(0.5, 0.1), (1.0, 0.3)]
    png = charts.confidence_figure([0.9, 0.5], [0.8, 0.6], risk)
    assert Image.open(io.BytesIO(png)).format == "PNG"
    foretold, curve = drawn_axes[-1]
    points = next(line for line in foretold.lines if line.get_label() == "pictures")
    assert points.get_xydata().tolist() == [[0.9, 0.8], [0.5, 0.6]]
    assert foretold.get_xlim()[0] < 0.5
    assert curve.lines[0].get_xydata().tolist() == [list(one) for one in risk]
