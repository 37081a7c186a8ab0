"""How many processes segment, and what is said while they wait. No Ray."""

import logging
import threading

import pytest

from spermseg.batch import pool as pool_module
from spermseg.batch.pool import Pool, Waiting, pool_for
from spermseg.errors import ConfigError

ASKED = {"count": None, "most": 64, "gpu": None, "own": False, "there": {}, "fewest": 1000, "units": 1000}
FROM_ZERO = {"CPU": 0}
"""A head that does none of the work, and no node yet."""


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"there": FROM_ZERO}, (False, 1, 64)),
        ({"there": FROM_ZERO, "gpu": True}, (True, 1, 64)),
        ({"there": FROM_ZERO, "gpu": True, "units": 5}, (True, 1, 5)),
        ({"there": FROM_ZERO, "gpu": True, "most": 3}, (True, 1, 3)),
        ({"there": FROM_ZERO, "gpu": True, "count": 4, "most": 3}, (True, 1, 4)),
        ({"there": {"CPU": 16, "GPU": 2}}, (True, 2, 64)),
        ({"there": {"CPU": 16, "GPU": 2}, "gpu": False}, (False, 16, 64)),
        ({"there": {"CPU": 16, "GPU": 2}, "fewest": 1}, (True, 1, 64)),
        ({"own": True, "there": {"CPU": 8}}, (False, 8, 8)),
        ({"own": True, "there": {"CPU": 8, "GPU": 2}}, (True, 2, 2)),
        ({"own": True, "there": {"CPU": 8}, "count": 3}, (False, 3, 3)),
        ({"own": True, "there": {"CPU": 8}, "units": 2}, (False, 2, 2)),
    ],
)
def test_a_cluster_is_asked_for_what_the_plan_needs_and_a_machine_for_what_it_has(changed, wanted):
    pool = pool_for(**(ASKED | changed))
    assert (pool.gpu, pool.fewest, pool.most) == wanted


def test_a_gpu_that_this_machine_has_not_is_refused_and_one_of_a_cluster_is_waited_for():
    with pytest.raises(ConfigError, match="this machine has none that Ray sees; give --gpu never or --address"):
        pool_for(**(ASKED | {"own": True, "gpu": True, "there": {"CPU": 8}}))
    assert pool_for(**(ASKED | {"gpu": True, "there": {"CPU": 8}})).gpu


def actor(state: str, restarts: int = 0) -> dict:
    return {"State": state, "NumRestarts": restarts}


def waiting_for(*actors: dict, timed_out: bool = False) -> Waiting:
    pool = Pool(gpu=True, fewest=1, most=4)
    return Waiting(lambda: actors, lambda: ({"GPU": 2.0, "CPU": 8.0}, {"CPU": 3.0}), pool, timed_out=timed_out)


def test_a_job_that_waits_for_busy_gpus_says_for_what():
    said = waiting_for(actor("PENDING_CREATION")).look()
    assert said.startswith("waiting for a GPU since ")
    assert said.endswith(" UTC: the cluster has 2, 0 of them free; of 4 workers at most none is up")
    assert not waiting_for(actor("ALIVE"), actor("PENDING_CREATION")).look()


@pytest.mark.parametrize(
    ("actors", "timed_out", "why"),
    [
        ([actor("PENDING_CREATION")], True, "no worker came up, since no GPU was free"),
        ([], False, "no worker came up, since no GPU was free"),
        ([actor("ALIVE")], True, "nothing was done for a long time"),
        ([actor("ALIVE", restarts=1)], True, "their workers died, or the machines were lost"),
        ([actor("RESTARTING")], True, "their workers died, or the machines were lost"),
        ([actor("ALIVE")], False, "their workers were lost"),
    ],
)
def test_that_workers_died_is_said_only_where_they_did(actors, timed_out, why):
    assert waiting_for(*actors, timed_out=timed_out).why() == why


def test_what_is_waited_for_is_said_again_and_again_but_not_while_units_are_done(monkeypatch):
    said, twice = [], threading.Event()

    def warning(text, line):
        said.append(text % line)
        if len(said) == 2:
            twice.set()

    monkeypatch.setattr(pool_module.logger, "warning", warning)
    with waiting_for(actor("PENDING_CREATION")).told(every_s=0.01):
        assert twice.wait(30)
    assert all(line.startswith("waiting for a GPU since ") for line in said)


def test_a_ray_that_is_on_its_way_out_is_no_trouble_for_who_waits(caplog):
    def gone():
        raise RuntimeError("Ray has not been started yet")

    waiting = Waiting(gone, gone)
    with caplog.at_level(logging.WARNING):
        assert (waiting.look(), waiting.why()) == ("", "no worker came up, since no machine was free")
