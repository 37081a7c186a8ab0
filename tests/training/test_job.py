"""Rows that travel between processes, and with what right to the CPUs they are made."""

import os

import pytest

from spermseg.recipes import recipe
from spermseg.training.data.source import SyntheticData
from spermseg.training.job import DrawTile, TrainJob


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the system has no such thing")
def test_a_tile_is_drawn_on_what_others_leave_of_the_cpus_and_all_else_is_not(monkeypatch):
    drawn_at = []
    draw = SyntheticData.draw

    def watched(*given):
        drawn_at.append(os.sched_getscheduler(0))
        return draw(*given)

    monkeypatch.setattr(SyntheticData, "draw", watched)
    clinic, data = recipe("clinic"), SyntheticData(pictures=4)
    job = TrainJob(data=data, network=clinic.network, view=clinic.view, config=clinic.train, threshold=0.5)
    before = os.sched_getscheduler(0)
    row = DrawTile(job, data, epoch=0, rank=0, size=1)({"id": 0})
    assert row["pixels"].shape == (256, 256, 3)
    assert row["coverage"].shape == (256, 256, len(data.classes))
    assert drawn_at == [os.SCHED_IDLE]
    assert os.sched_getscheduler(0) == before != os.SCHED_IDLE
