"""Nights on storage that fails in the middle: they stop in one line, and the same command goes on."""

import subprocess
from pathlib import Path

import pytest
from dark_cells import night_over, picture
from fault_proxy import Fault, FaultProxy, Kind

from spermseg.batch.receipt import list_runs, verify
from spermseg.batch.results import list_units, read_units
from spermseg.batch.run import segment_night
from spermseg.errors import RunError, StorageError
from spermseg.storage.filesystem import Location

pytestmark = pytest.mark.usefixtures("without_ray", "small_units")

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
