"""Files that are read and written piece by piece, and pyarrow's way to them: whole, or not there."""

import errno
import gc
import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import pyarrow.fs as pafs
import pytest
from support.fault_proxy import TRANSIENT, Fault, FaultProxy, Kind
from support.places import keys, put

from spermseg.errors import StorageError, StorageRefusedError
from spermseg.storage import open_files, patience
from spermseg.storage.arrow_filesystem import arrow_filesystem
from spermseg.storage.filesystem import Location
from spermseg.storage.local import parts as local_parts
from spermseg.storage.patience import Patience

PART = 5 << 20  # the smallest that S3 takes
LARGE = os.urandom(2 * PART + 1000)
PASSING = [*TRANSIENT, Kind.TRUNCATED]


@pytest.fixture(autouse=True)
def small_parts_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "PART", PART)
    patience.be_patient(Patience(total_s=60, longest_wait_s=0.01))


@pytest.fixture(params=["moto_server", "radosgw"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[FaultProxy, Location, Location]]:
    """A proxy; a place as seen through it; the same place behind its back."""
    behind = request.getfixturevalue(request.param).new_bucket().child("place")
    with FaultProxy(behind.endpoint_url) as proxy:
        yield proxy, Location(behind.uri, proxy.endpoint_url), behind


def write_in_pieces(file: Location, data: bytes) -> None:
    with file.create() as opened:
        for start in range(0, len(data), 3_000_000):
            opened.write(data[start : start + 3_000_000])


def parts_left(place: Location) -> int:
    """Return how many files were begun there, on S3, and neither finished nor given up."""
    client = boto3.client("s3", endpoint_url=place.endpoint_url)
    return len(client.list_multipart_uploads(Bucket=place.path.partition("/")[0]).get("Uploads", ()))


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART, len(LARGE)])
def test_a_file_of_any_size_is_there_when_it_is_closed_and_not_before(place, size):
    file = place.child("a", "b.bin")
    with file.create() as opened:
        assert opened.write(LARGE[:size]) == opened.tell() == size
        assert keys(place) == [] or not place.is_s3
        assert not file.exists()
    assert file.read_bytes() == LARGE[:size]
    assert keys(place) == ["a/b.bin"]


@pytest.mark.parametrize("size", [3, len(LARGE)])
def test_what_is_left_by_an_exception_or_forgotten_leaves_what_was_there(place, size):
    file = place.child("a.bin")
    file.write_bytes(b"before")
    with suppress(KeyboardInterrupt), file.create() as opened:
        opened.write(LARGE[:size])
        raise KeyboardInterrupt
    opened = file.create()
    opened.write(LARGE[:size])
    del opened
    gc.collect()
    assert file.read_bytes() == b"before"
    assert keys(place) == ["a.bin"]
    assert not place.is_s3 or parts_left(place) == 0


@pytest.mark.parametrize("kind", PASSING)
def test_an_outage_while_a_large_file_is_written_is_not_noticed(both, kind):
    proxy, place, behind = both
    for request, after in (("PUT", 0), ("PUT", 1), ("POST", 0), ("POST", 1)):  # begun and put together by POST
        proxy.inject(Fault(kind=kind, on=request, after=after, times=3))
    behind.child("a.bin").write_bytes(b"before")
    write_in_pieces(place.child("a.bin"), LARGE)
    assert behind.child("a.bin").read_bytes() == LARGE
    assert proxy.faults[kind] >= 5


def test_a_large_file_that_was_put_together_though_nobody_said_so_is_a_success(both):
    proxy, place, behind = both
    proxy.inject(Fault(kind=Kind.LOST_ANSWER, on="POST", after=1))
    write_in_pieces(place.child("a.bin"), LARGE)
    assert behind.child("a.bin").read_bytes() == LARGE
    assert proxy.faults[Kind.LOST_ANSWER] == 1
    assert parts_left(behind) == 0


@pytest.mark.parametrize("after", [0, 1])
def test_a_file_that_may_not_be_written_is_one_line_and_leaves_nothing(both, after):
    proxy, place, behind = both
    proxy.inject(Fault(kind=Kind.DENIED, on="PUT|POST", after=after, times=2))
    with pytest.raises(StorageRefusedError, match=r"^s3://[^\n]+/place/a.bin: access denied [^\n]+$"):
        write_in_pieces(place.child("a.bin"), LARGE)
    assert keys(behind) == []
    assert parts_left(behind) == 0


def test_a_network_folder_that_is_away_while_a_large_file_is_written_is_not_noticed(tmp_path, monkeypatch):
    calls = 0
    sync = os.fsync

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise OSError(errno.EIO, "gone")
        sync(handle)

    monkeypatch.setattr(local_parts.os, "fsync", fsync)
    file = Location(str(tmp_path / "new" / "a.bin"))
    write_in_pieces(file, LARGE)
    assert file.read_bytes() == LARGE
    assert keys(Location(str(tmp_path))) == ["new/a.bin"]
    assert calls >= 9


def test_a_network_folder_that_stays_away_leaves_nothing_of_a_large_file(tmp_path, monkeypatch):
    patience.be_patient(Patience(total_s=0))
    file = Location(str(tmp_path / "a.bin"))
    opened = file.create()
    opened.write(LARGE)

    def fsync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(local_parts.os, "fsync", fsync)
    with pytest.raises(StorageError, match=r"^[^\n]+/a.bin could not be written: [^\n]+$"):
        opened.close()
    assert list(tmp_path.iterdir()) == []


# As a filesystem of pyarrow


def copied(source: str, target: str, **filesystems: pafs.FileSystem) -> None:
    pafs.copy_files(source, target, chunk_size=1 << 20, **filesystems)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Location:
    folder = Location(str(tmp_path / "checkpoint"))
    put(folder, "a.json", "inner/b.json")
    folder.child("weights.bin").write_bytes(LARGE)
    return folder


def check_copies(checkpoint: Location, place: Location, back: str) -> None:
    """Copy a folder there and back, as Ray Train does."""
    filesystem, path = pickle.loads(pickle.dumps(arrow_filesystem(place)))
    copied(checkpoint.path, f"{path}/checkpoints/1", destination_filesystem=filesystem)
    copied(f"{path}/checkpoints/1", back, source_filesystem=filesystem)
    assert keys(Location(back)) == ["a.json", "inner/b.json", "weights.bin"]
    assert Location(back).child("weights.bin").read_bytes() == LARGE


def test_pyarrow_copies_folders_to_every_storage_and_back(place, checkpoint, tmp_path):
    check_copies(checkpoint, place, str(tmp_path / "back"))


@pytest.mark.parametrize("kind", [Kind.SLOW_DOWN, Kind.RESET, Kind.SHORT_BODY])
def test_an_outage_while_pyarrow_copies_a_folder_is_not_noticed(both, kind, checkpoint, tmp_path):
    proxy, place, _ = both
    for request in ("PUT", "POST", "GET", "HEAD", "LIST"):
        proxy.inject(Fault(kind=kind, on=request, times=15))  # more than pyarrow itself tries
    check_copies(checkpoint, place, str(tmp_path / "back"))
    assert proxy.faults[kind] >= 50


def test_pyarrow_sees_and_removes_folders(place):
    put(place, "a/1/x", "a/1/y/z", "a/2", "b")
    filesystem, path = arrow_filesystem(place)
    found = {info.path: info.type.name for info in filesystem.get_file_info(pafs.FileSelector(f"{path}/a"))}
    assert found == {f"{path}/a/1": "Directory", f"{path}/a/2": "File"}
    found = {info.path for info in filesystem.get_file_info(pafs.FileSelector(f"{path}/a", recursive=True))}
    assert found == {f"{path}/a/{name}" for name in ("1", "1/x", "1/y", "1/y/z", "2")}
    types = [info.type.name for info in filesystem.get_file_info([f"{path}/a", f"{path}/b", f"{path}/c"])]
    assert types == ["Directory", "File", "NotFound"]
    filesystem.delete_dir(f"{path}/a/1")
    filesystem.move(f"{path}/b", f"{path}/c")
    assert keys(place) == ["a/2", "c"]
    with pytest.raises(FileNotFoundError):
        filesystem.get_file_info(pafs.FileSelector(f"{path}/a/1"))
    with pytest.raises(FileNotFoundError, match="is not there"):
        filesystem.open_input_file(f"{path}/b")


def test_the_filesystem_of_one_server_is_one_wherever_it_travels(s3_keys):
    (one, _), (same, _) = (arrow_filesystem(Location(f"s3://{name}/a", "http://one:1")) for name in ("b", "c"))
    assert one == pickle.loads(pickle.dumps(same))
    assert one != arrow_filesystem(Location("s3://b/a", "http://two:1"))[0]
    assert one != arrow_filesystem(Location("/b/a"))[0]
