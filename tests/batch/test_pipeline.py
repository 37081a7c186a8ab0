"""The pipeline on real Ray processes."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from support.dark_cells import EXPECTED, PLANNED, PREDICT, REASONS, name_of, night_over, run_in_process, write_uploads

from spermseg.batch import pipeline, run
from spermseg.batch.pipeline import FAILURES_AT_FIRST, PipelineJob, run_pipeline
from spermseg.batch.pool import Workers
from spermseg.batch.run import Progress, segment_night
from spermseg.batch.worker.messages import UnitDone, failure
from spermseg.batch.worker.segment import SegmentUnit
from spermseg.errors import ConfigError, RunError, StorageError, StorageRefusedError
from spermseg.storage.filesystem import Location
from spermseg.table.plan import Planned, encode_plan
from spermseg.table.results import read_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.ray

OPENVINO = replace(PREDICT, engine="openvino")
OF_ITS_RUN = ("image_id", "uri", "run_id", "decode_ms", "predict_ms", "measure_ms")


@pytest.fixture(scope="module")
def expected(tmp_path_factory, model) -> dict[str, dict]:
    """The rows of the same uploads, made in this process without Ray."""
    folder = tmp_path_factory.mktemp("in-process")
    source, out = Location(str(folder / "uploads")), Location(str(folder / "results"))
    write_uploads(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_pipeline", run_in_process)
        segment_night(night_over(source, out, model, predict=OPENVINO), lambda progress: None)
    return rows_of(out, source)


def rows_of(out: Location, source: Location) -> dict[str, dict]:
    rows = [row for table in read_units(out) for row in table.to_pylist()]
    named = {name_of(row, source): row for row in rows}
    assert len(named) == len(rows)
    return {name: {key: row[key] for key in row.keys() - set(OF_ITS_RUN)} for name, row in named.items()}


def test_a_night_on_ray_gives_the_rows_that_one_process_gives_on_every_storage(
    new_place, cluster, model, expected, monkeypatch
):
    uploads, out = new_place().child("uploads"), new_place().child("results")
    write_uploads(uploads)
    night = night_over(uploads, out, model, predict=OPENVINO, workers=Workers(count=1, address=cluster))
    seen: list[Progress] = []
    (receipt,) = segment_night(night, seen.append)
    assert rows_of(out, uploads) == expected
    assert (receipt.planned, receipt.ok, receipt.rejected) == (PLANNED, len(EXPECTED), len(REASONS))
    assert (seen[0].done, seen[-1].done, seen[-1].rejected) == (0, PLANNED, len(REASONS))
    assert len(seen) == 1 + receipt.units
    assert verify(out) == (PLANNED, [])
    assert segment_night(night, seen.append) == []


def test_a_task_that_fetches_several_units_hands_each_on_by_itself(uploads, out, cluster, model, expected, monkeypatch):
    monkeypatch.setattr("spermseg.batch.pipeline.MOST_BLOCKS", 2)
    seen: list[Progress] = []
    workers = Workers(count=1, address=cluster)
    night = night_over(uploads, out, model, predict=OPENVINO, workers=workers, unit_micrographs=2)
    (receipt,) = segment_night(night, seen.append)
    assert rows_of(out, uploads) == expected
    assert len(seen) == 1 + receipt.units > 5


def test_decoding_in_tasks_of_their_own_gives_the_same_rows(uploads, out, cluster, model, expected, monkeypatch):
    seen: list[Progress] = []
    workers = Workers(count=1, address=cluster, decode_apart=True)
    night = night_over(uploads, out, model, predict=OPENVINO, workers=workers)
    segment_night(night, seen.append)
    assert rows_of(out, uploads) == expected
    spent = seen[-1].profile.spent
    assert min(spent.fetch_s, spent.fetched_bytes, spent.decode_s, spent.network_s, spent.written_bytes) > 0
    assert len(seen[-1].profile.workers) == 1


def test_a_storage_that_keeps_failing_stops_the_run_in_one_line_and_rejects_nothing(
    cluster, uploads, out, model, capfd
):
    """A name too long for the file system stands for an outage: it fails each time, and for another reason than 404."""
    night = night_over(uploads, out, model, workers=Workers(count=1, address=cluster))
    job, units = planned_with_an_outage(night)
    done: list[UnitDone] = []
    with pytest.raises(RunError, match=r"the run stopped: .* could not be read: File name too long; what") as caught:
        run_pipeline(job, units, night.workers, done.append)
    assert "\n" not in caught.value.message
    assert "Ray" not in "".join(capfd.readouterr())
    assert not [row for table in read_units(out) for row in table.to_pylist() if row["status"] == "rejected"]


FAILED = failure(0, ValueError("no such thing"))


@pytest.mark.parametrize(
    ("number", "goes_on", "stops"),
    [(0, False, True), (0, True, False), (1, False, False), (1, True, False), (2, False, True), (2, True, True)],
)
def test_where_the_first_units_all_fail_the_run_stops_but_where_uploads_may_be_to_blame(
    uploads, out, model, monkeypatch, number, goes_on, stops
):
    """What failed before comes first in the second pass, and in a run that goes on. In isolation none is to blame."""
    night = night_over(uploads, out, model)
    job = replace(pipeline_job(night), goes_on=goes_on)
    failed = [FAILED | {"unit": unit} for unit in range(FAILURES_AT_FIRST + 1)]
    hand_on(monkeypatch, failed)
    if stops:
        with pytest.raises(RunError, match="the run stopped: ValueError: no such thing; what is written stays"):
            pipeline._run(job, list(range(20)), Workers(), lambda done: None, number)
    else:
        left = pipeline._run(job, list(range(20)), Workers(), lambda done: None, number)
        assert left == (list(range(20)), "ValueError: no such thing")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(StorageRefusedError, StorageRefusedError), (StorageError, RunError), (ConfigError, ConfigError)],
)
def test_what_no_upload_is_to_blame_for_ends_the_run_as_it_would_here(uploads, out, model, monkeypatch, error, kind):
    failed = [failure(3, error("s3://clinic: access denied"))]
    hand_on(monkeypatch, failed)
    with pytest.raises(kind, match="the run stopped: s3://clinic: access denied; what is written stays"):
        pipeline._run(pipeline_job(night_over(uploads, out, model)), [3, 4], Workers(), lambda done: None, 0)


def hand_on(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, object]]) -> None:
    """Let a pass have these rows of the last stage, without Ray."""
    monkeypatch.setattr(pipeline, "heard", lambda _: nullcontext())
    monkeypatch.setattr(pipeline, "_pipeline", lambda *_, **__: Rows(rows))


class Rows(list[dict[str, object]]):
    """What the last stage hands on."""

    def iter_rows(self):
        return iter(self)


def planned_with_an_outage(night):
    """Store a plan of two units, a micrograph each: one that is there, and one whose storage fails."""
    there = night.source.child("patient-1/1.bmp").stat()
    unreachable = f"{night.source.uri}/{'x' * 300}.png"
    units = [
        [Planned(image_id="1", uri=there.uri, size=there.size, data_size=there.size, etag=there.etag)],
        [Planned(image_id="2", uri=unreachable, size=1, data_size=1, etag="e")],
    ]
    RunFolder(night.out, "night-1").plan.write_bytes(encode_plan(units, {})[0])
    return pipeline_job(night), range(2)


def pipeline_job(night):
    return PipelineJob(
        run=RunFolder(night.out, "night-1"),
        model=night.model,
        settings=night.settings,
        predict=night.predict,
        source=Location("/"),
    )


def test_a_gpu_that_cannot_be_used_is_told_with_its_machine_by_the_first_unit(uploads, out, model, monkeypatch):
    def no_driver(*_, **__):
        raise RuntimeError("Found no NVIDIA driver on your system.\nPlease install one")

    monkeypatch.setattr(torch, "zeros", no_driver)
    monkeypatch.setattr("spermseg.batch.worker.segment.open_plan", lambda plan: None)
    night = night_over(uploads, out, model)
    segmenting = pipeline_job(night).segmenting(Workers(), use_gpu=True)
    rows = list(SegmentUnit(RunFolder(out, "night-1"), segmenting, 1)({"kind": "fetched", "unit": 3}))
    hand_on(monkeypatch, rows)
    with pytest.raises(ConfigError, match=r"the GPU of \S+ cannot be used: Found no NVIDIA driver") as caught:
        pipeline._run(pipeline_job(night), [3, 4], Workers(), lambda done: None, 0)
    assert "\n" not in caught.value.message


def test_a_cluster_that_does_not_answer_is_one_line(uploads, out, model):
    night = night_over(uploads, out, model, workers=Workers(address="127.0.0.1:1"))
    with pytest.raises(RunError, match=r"does not answer at 127\.0\.0\.1:1: .*refused") as caught:
        segment_night(night, lambda progress: None)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("wrong", [{"count": 0}, {"decode_threads": 0}])
def test_less_than_one_worker_or_thread_is_refused(wrong):
    with pytest.raises(ConfigError, match="1 or more is needed"):
        Workers(**wrong)
