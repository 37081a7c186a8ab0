"""Forecasts: proportions of a sample, drawn fairly; and what a run was told stands beside what it took."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archive_files import tar_gz_of
from support.dark_cells import CELLS, EXPECTED, PLANNED, PREDICT, REASONS, VIEW, night_over, picture

from spermseg.batch import run
from spermseg.batch.forecast import SAMPLED, START_S, Sample, Uploads, draw_planned, extrapolate, measure_sample
from spermseg.batch.listing import list_uploads
from spermseg.batch.run import segment_night
from spermseg.batch.worker.process import Segmenting
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.errors import RunError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.storage.filesystem import Location
from spermseg.table.plan import Identity, Plan, Planned, encode_plan
from spermseg.table.receipt import read_receipt
from spermseg.table.run_folder import RunFolder

seconds = st.floats(0, 100)
samples = st.builds(
    Sample,
    uploads=st.just(SAMPLED),
    ok=st.integers(1, SAMPLED),
    megapixels=st.floats(2, 100),
    windows=st.integers(1, 100),
    timed_megapixels=st.floats(1, 2),
    decode_s=seconds,
    network_s=seconds,
    measure_s=seconds,
    table_bytes=st.integers(1, 10**6),
    worker_bytes=st.floats(1, 1e9),
)


def planned(number: int) -> Planned:
    return Planned(image_id=f"{number:032x}", uri=f"/{number}", size=number, data_size=number, etag="e")


@given(samples, st.integers(1, 10**6), st.integers(1, 9))
def test_twice_the_uploads_take_twice_as_much_and_twice_the_workers_half_as_long(sample, uploads, workers):
    one, two = extrapolate(sample, uploads), extrapolate(sample, 2 * uploads)
    for name in ("megapixels", "windows", "cpu_s", "beside_network_s", "table_bytes"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name))
    assert two.worker_bytes == one.worker_bytes
    assert one.seconds(2 * workers) - START_S == pytest.approx((one.seconds(workers) - START_S) / 2)
    assert one.least_seconds_on_gpus(workers, 1) <= one.seconds(workers) + 1e-9


@given(samples)
def test_a_night_of_the_sample_itself_is_the_sample(sample):
    told = extrapolate(sample, sample.uploads)
    assert (told.rejected, told.windows, told.table_bytes) == (
        sample.uploads - sample.ok, sample.windows, sample.table_bytes,
    )  # fmt: skip
    assert told.megapixels == pytest.approx(sample.megapixels)


def test_of_nothing_nothing_is_told():
    told = extrapolate(Sample(uploads=0, ok=0, megapixels=0, windows=0, timed_megapixels=0, decode_s=0, network_s=0,
                              measure_s=0, table_bytes=0, worker_bytes=0), 0)  # fmt: skip
    assert (told.megapixels, told.cpu_s) == (0, 0)


@given(st.integers(0, 200))
def test_uploads_that_go_by_are_counted_and_some_of_them_kept(count):
    uploads = Uploads()
    assert list(uploads.passing(map(planned, range(count)))) == [planned(number) for number in range(count)]
    assert (uploads.count, uploads.bytes) == (count, sum(range(count)))
    assert len({one.uri for one in uploads.kept}) == len(uploads.kept) == min(count, SAMPLED)


def test_what_is_kept_is_in_the_order_in_which_it_went_by(model, tmp_path):
    """Of a compressed archive members can only be read in order."""
    place = Location(str(tmp_path / "uploads"))
    place.child("monday.tar.gz").write_bytes(tar_gz_of([(f"{n:03}.png", picture(n % 7)) for n in range(60)]))
    uploads = Uploads()
    list(uploads.passing(list_uploads(place, Identity(model_sha256="m", recipe_sha256="s"))))
    segmenting = Segmenting(
        model=model,
        settings=SegmentSettings(view=VIEW, cells=CELLS),
        predict=PREDICT,
        run_id="forecast",
        decode=decode_micrograph,
        hang_s=60,
    )
    sample = measure_sample(uploads.kept, segmenting, Location("/"))
    assert (sample.uploads, sample.ok) == (SAMPLED, SAMPLED)


def test_the_last_uploads_are_as_likely_to_be_kept_as_the_first():
    uploads = Uploads()
    list(uploads.passing(map(planned, range(4000))))
    halves = Counter(one.size // 2000 for one in uploads.kept)
    assert min(halves[0], halves[1]) >= 3


def test_a_plan_is_sampled_across_its_units(out):
    units = [[planned(10 * unit + number) for number in range(unit + 1)] for unit in range(8)]
    out.child("plan.parquet").write_bytes(encode_plan(units, {})[0])
    drawn = draw_planned(Plan(out.child("plan.parquet")))
    everything = [one for unit in units for one in unit]
    assert len(drawn) == SAMPLED
    assert all(one in everything for one in drawn)
    assert len({one.image_id for one in drawn}) == SAMPLED


@pytest.mark.usefixtures("without_ray")
def test_the_receipt_of_a_run_that_is_not_small_says_what_was_told_and_what_it_took(uploads, out, model):
    (receipt,) = segment_night(night_over(uploads, out, model, forecast_from=PLANNED), lambda progress: None)
    told = receipt.forecast
    assert told is not None
    assert told["uploads"] == PLANNED
    assert told["rejected"] == pytest.approx(len(REASONS), abs=5)
    assert told["megapixels"] == pytest.approx(receipt.megapixels, rel=0.5)
    assert told["windows"] >= len(EXPECTED)
    assert 1e8 < told["worker_bytes"] < 4e9
    assert told["table_bytes"] > 0
    assert told["seconds"] > START_S
    assert receipt.worker_bytes > 1e8
    assert receipt.table_bytes > 0
    assert read_receipt(RunFolder(out, receipt.run_id))["forecast"] == told


@pytest.mark.usefixtures("without_ray")
def test_a_night_goes_on_where_no_forecast_can_be_made(uploads, out, model, monkeypatch, caplog):
    def fail(*_):
        raise RunError("a process that segments could not be started: no memory")

    monkeypatch.setattr(run, "measure_sample", fail)
    (receipt,) = segment_night(night_over(uploads, out, model, forecast_from=PLANNED), lambda progress: None)
    assert (receipt.planned, receipt.forecast) == (PLANNED, None)
    assert "no forecast is made: a process that segments could not be started: no memory" in caplog.text


@pytest.mark.usefixtures("without_ray")
def test_a_small_run_is_not_forecast(uploads, out, model):
    (receipt,) = segment_night(night_over(uploads, out, model), lambda progress: None)
    assert receipt.forecast is None
