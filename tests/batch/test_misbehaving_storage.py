"""Nights on storage that fails in the middle: they stop in one line, and the same command goes on."""

import pickle
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.dark_cells import night_over, picture, run_in_process
from support.fault_proxy import Fault, FaultProxy, Kind
from support.patient import patient

from spermseg.batch import run
from spermseg.batch.run import segment_night
from spermseg.batch.worker.messages import FetchUnits
from spermseg.batch.worker.segment import SegmentUnit
from spermseg.errors import RunError, StorageError
from spermseg.storage import patience
from spermseg.storage.filesystem import Location
from spermseg.storage.patience import Patience
from spermseg.storage.s3 import backend as s3
from spermseg.table import lease_holder as holder
from spermseg.table.receipt import list_runs
from spermseg.table.results import list_units, read_units
from spermseg.table.run_folder import RunFolder
from spermseg.table.verify import verify

pytestmark = pytest.mark.usefixtures("without_ray")

PICTURES = 40


def write_pictures(source: Location) -> None:
    for number in range(PICTURES):
        source.child(f"patient-{number % 5}/{number:03}.png").write_bytes(picture(number % 9, height=96 + number))


def nothing(progress: object) -> None:
    pass


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_stops_the_night_and_the_same_command_goes_on(tmp_path, small_disk: Path, model):
    uploads, out = Location(str(tmp_path / "uploads")), Location(str(small_disk / "results"))
    write_pictures(uploads)
    night = night_over(uploads, out, model)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(170 * 1024))
    with pytest.raises((RunError, StorageError), match="no space left") as stopped:
        segment_night(night, nothing)
    assert "\n" not in stopped.value.message
    (run_id,) = list_runs(out)
    assert list(list_runs(out).values()) == [False]
    assert 0 < len(list_units(out)) < PICTURES // 4
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size == 0]
    assert not list(small_disk.rglob(".partial-*"))
    ballast.unlink()
    (receipt,) = segment_night(night, nothing)
    assert (receipt.run_id, receipt.planned, receipt.rejected) == (run_id, PICTURES, 0)
    assert verify(out) == (PICTURES, [])


def test_credentials_that_expire_in_the_middle_stop_the_night_and_reject_nothing(moto_server, model):
    bucket = moto_server.new_bucket()
    write_pictures(bucket.child("uploads"))
    with FaultProxy(moto_server.endpoint_url) as proxy:
        uploads = Location(bucket.child("uploads").uri, proxy.endpoint_url)
        out = Location(bucket.child("results").uri, proxy.endpoint_url)
        night = night_over(uploads, out, model)
        expired = proxy.inject(Fault(kind=Kind.EXPIRED, key="/uploads/patient-3", after=4, times=None))
        with pytest.raises((RunError, StorageError), match="expired") as stopped:
            segment_night(night, nothing)
        assert "\n" not in stopped.value.message
        assert proxy.faults[Kind.EXPIRED]
        statuses = {status for rows in read_units(out) for status in rows["status"].to_pylist()}
        assert statuses == {"ok"}
        assert 0 < len(list_units(out)) < PICTURES // 4
        proxy.remove(expired)
        (receipt,) = segment_night(night, nothing)
        assert (receipt.planned, receipt.rejected, receipt.starts) == (PICTURES, 0, 2)
        assert verify(out) == (PICTURES, [])


# Outages, refused keys, and the lease


@pytest.fixture
def proxied(moto_server, monkeypatch) -> Iterator[tuple[FaultProxy, Location]]:
    """A bucket with uploads, and what stands before it. Leases are short, and waits too."""
    monkeypatch.setattr(holder, "LASTS_S", 1.0)
    patience.be_patient(Patience(longest_wait_s=0.05))
    bucket = moto_server.new_bucket()
    write_pictures(bucket.child("uploads"))
    with FaultProxy(moto_server.endpoint_url) as proxy:
        yield proxy, Location(bucket.uri, proxy.endpoint_url)


def in_mid_run(monkeypatch, act) -> None:
    """Do something once, when two units of a run are written."""
    left = [act]

    def pipeline(job, numbers, workers, on_unit):
        run_in_process(job, numbers[:2], workers, on_unit)
        if left:
            left.pop()()
        run_in_process(job, numbers[2:], workers, on_unit)

    monkeypatch.setattr(run, "run_pipeline", pipeline)


def test_a_storage_that_is_away_in_mid_run_for_longer_than_the_lease_lasts_costs_that_time_only(
    proxied, model, monkeypatch, caplog
):
    proxy, bucket = proxied
    night = night_over(bucket.child("uploads"), bucket.child("results"), model)

    def go_away() -> None:
        proxy.inject(Fault(kind=Kind.RESET, times=None))
        threading.Timer(1.5, proxy.remove).start()

    in_mid_run(monkeypatch, go_away)
    (receipt,) = segment_night(night, nothing)
    assert proxy.faults[Kind.RESET]
    assert (receipt.planned, receipt.rejected, receipt.starts) == (PICTURES, 0, 1)
    assert verify(night.out) == (PICTURES, [])
    assert "this job's lock is renewed again" in caplog.text


@pytest.mark.parametrize("same_host", [True, False])
def test_a_storage_that_stays_away_stops_the_night_and_the_same_command_goes_on_unasked(
    proxied, model, monkeypatch, caplog, same_host
):
    proxy, bucket = proxied
    night = night_over(bucket.child("uploads"), bucket.child("results"), model)
    in_mid_run(monkeypatch, lambda: proxy.inject(Fault(kind=Kind.RESET, times=None)))
    waiting_briefly = patient(Patience(total_s=0.3, longest_wait_s=0.05))
    with waiting_briefly, pytest.raises((RunError, StorageError)) as stopped:
        segment_night(night, nothing)
    assert "\n" not in stopped.value.message
    assert "the lock could not be released, and expires by itself 1 s after its last renewal" in caplog.text
    proxy.remove()
    if not same_host:  # a new head, or a new pod
        monkeypatch.setattr(holder, "_boot", lambda: "that of another host")
    (receipt,) = segment_night(night, nothing)
    assert (receipt.planned, receipt.rejected, receipt.starts) == (PICTURES, 0, 2)
    assert verify(night.out) == (PICTURES, [])
    assert ("that process no longer runs" if same_host else "it was not renewed for 1 s") in caplog.messages[-1]


def test_a_key_that_is_taken_away_in_mid_run_stops_the_night_and_given_back_the_same_command_goes_on(
    radosgw, model, monkeypatch, caplog
):
    patience.be_patient(Patience(longest_wait_s=0.05))
    bucket = radosgw.new_bucket()
    write_pictures(bucket.child("uploads"))
    night = night_over(bucket.child("uploads"), bucket.child("results"), model)
    with ExitStack() as taken:
        in_mid_run(monkeypatch, lambda: taken.enter_context(radosgw.without_key()))
        with pytest.raises((RunError, StorageError), match=r"InvalidAccessKeyId.*give others, and the same command"):
            segment_night(night, nothing)
        assert "expires by itself 3 min after its last renewal" in caplog.messages[-1]
        assert "the credentials are not accepted" in caplog.messages[-1]
    s3.client.cache_clear()
    (receipt,) = segment_night(night, nothing)
    assert (receipt.planned, receipt.rejected, receipt.starts) == (PICTURES, 0, 2)
    assert verify(night.out) == (PICTURES, [])


def test_the_patience_of_a_job_travels_to_those_who_fetch_and_segment(tmp_path, model):
    night = night_over(Location(str(tmp_path / "uploads")), Location(str(tmp_path / "results")), model)
    with patient(Patience(total_s=42)):
        fetch = FetchUnits(night.out.child("no-plan"), None)
        segmenting = run._job(night, RunFolder(night.out, "run")).segmenting(night.workers, use_gpu=False)
        travelling = pickle.dumps((fetch, segmenting))
    fetch, segmenting = pickle.loads(travelling)
    (row,) = fetch({"units": [0]})
    assert row["outage"]
    assert patience.patience() == segmenting.patience == Patience(total_s=42)
    patience.be_patient(Patience())
    with pytest.raises(StorageError):
        SegmentUnit(RunFolder(night.out, "no-plan"), segmenting, 1)
    assert Patience(total_s=42) == patience.patience()
