"""One public face, three kinds of storage: each law holds in a folder, on moto and on Ceph's radosgw."""

import io
import os
import pickle
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from support.places import keys, put

from spermseg.errors import (
    ObjectChangedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
)
from spermseg.storage.archives.directory import list_members, unpack_member
from spermseg.storage.arrow_filesystem import arrow_filesystem
from spermseg.storage.filesystem import Location
from spermseg.storage.s3 import backend as s3

UNUSUAL = [
    "a b.jpg",
    " leading and trailing .jpg",
    "Äpfel 精子.jpg",
    "a+b.jpg",
    "100%.jpg",
    "100%20.jpg",
    "a#b.jpg",
    "a?b=c&d.jpg",
    ".hidden",
    "_under",
    "a'\"b.jpg",
    "a;b,c=d@e!$(f)*~.jpg",
    "[1]{2}^`|<3>.jpg",
    "a\\b.jpg",
    "a:b.jpg",
]


# Listing


def test_a_listing_shows_every_file_below_in_the_order_of_the_paths(place):
    names = ["z.jpg", "a/x.jpg", "a.jpg", "a/b/c.jpg", "B.jpg", "a-1.jpg", "a0.jpg", "é.jpg", "a/b.jpg"]
    put(place, *names)
    assert keys(place) == sorted(names)


def test_a_listing_agrees_with_stat_and_its_uris_can_be_read(place):
    put(place, "a.jpg", "b/c.jpg")
    for item in place.list():
        found = Location(item.uri, place.endpoint_url)
        stat = found.stat()
        assert (stat.uri, stat.size, stat.etag) == (item.uri, item.size, item.etag)
        assert found.read_range(0, item.size, etag=item.etag) == item.key.encode()


def test_a_listing_leaves_out_what_only_begins_with_the_same_letters(place):
    put(place, "a/1.jpg", "ab/2.jpg", "a.jpg", "a-b/3.jpg")
    assert keys(place.child("a")) == ["1.jpg"]


def test_a_file_lists_itself(place):
    put(place, "a.jpg", "a.jpg.txt")
    item, *rest = place.child("a.jpg").list()
    assert (item.key, item.size, rest) == ("a.jpg", 5, [])


def test_nothing_there_lists_as_nothing(place):
    assert keys(place) == []
    put(place, "file")
    assert keys(place.child("other")) == []
    assert keys(place.child("file", "below")) == []


def test_a_whole_bucket_or_top_folder_is_listed(new_place):
    top = new_place()
    put(top, "a/b.jpg", "c.jpg")
    assert keys(top) == ["a/b.jpg", "c.jpg"]


@pytest.mark.parametrize("name", UNUSUAL)
def test_any_name_can_be_written_listed_and_read(place, name):
    put(place, name)
    (item,) = place.list()
    found = Location(item.uri, place.endpoint_url)
    assert item.key == found.name == name
    assert found.read_bytes() == name.encode()
    assert found.read_range(0, 1) == name.encode()[:1]
    with found.open() as file:
        assert file.read() == name.encode()
    filesystem, path = arrow_filesystem(found)
    assert filesystem.open_input_file(path).read() == name.encode()


def test_a_listing_goes_on_past_a_thousand_objects(radosgw):
    place = radosgw.new_bucket()
    names = [f"{number:04}.jpg" for number in range(1005)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: place.child(name).write_bytes(b""), names))
    assert keys(place) == names


def test_the_empty_objects_that_stand_for_folders_are_left_out(radosgw):
    bucket = radosgw.new_bucket()
    put(bucket, "a/1.jpg")
    s3.client(radosgw.endpoint_url).put_object(Bucket=bucket.path, Key="a/", Body=b"")
    assert keys(bucket) == ["a/1.jpg"]
    assert keys(bucket.child("a")) == ["1.jpg"]


# Reading


def test_a_file_that_is_not_there_is_missing(place):
    put(place, "folder/a.jpg")
    for missing in (place.child("no.jpg"), place.child("folder"), place.child("folder", "a.jpg", "b")):
        assert not missing.exists()
        for read in (missing.stat, missing.read_bytes, missing.open, partial(missing.read_range, 0, 1)):
            with pytest.raises(ObjectMissingError, match="is not"):
                read()
    assert place.child("folder", "a.jpg").exists()


def test_an_empty_file_reads_as_nothing(place):
    empty = place.child("empty.jpg")
    empty.write_bytes(b"")
    assert (empty.stat().size, empty.read_bytes(), empty.read_range(0, 0)) == (0, b"", b"")
    assert empty.open().read() == b""
    with pytest.raises(StorageError, match="ends before byte 1"):
        empty.read_range(0, 1)


@pytest.mark.parametrize(("start", "size"), [(0, 10), (3, 4), (9, 1), (0, 0), (10, 0)])
def test_a_range_is_exactly_those_bytes(place, start, size):
    file = place.child("digits")
    file.write_bytes(b"0123456789")
    assert file.read_range(start, size) == b"0123456789"[start : start + size]
    assert file.read_range(start, size, etag=file.stat().etag) == b"0123456789"[start : start + size]


@pytest.mark.parametrize(("start", "size"), [(0, 11), (9, 2), (10, 1), (500, 5)])
def test_a_range_beyond_the_end_is_an_error_that_says_so(place, start, size):
    file = place.child("digits")
    file.write_bytes(b"0123456789")
    with pytest.raises(StorageError, match=f"ends before byte {start + size}"):
        file.read_range(start, size)


@pytest.mark.parametrize("size", [0, 3])
def test_a_file_that_changed_since_it_was_planned_is_not_read(place, size):
    file = place.child("a.jpg")
    file.write_bytes(b"first")
    etag = file.stat().etag
    file.write_bytes(b"second")
    with pytest.raises(ObjectChangedError, match="changed since planned"):
        file.read_range(0, size, etag=etag)
    assert file.stat().etag != etag


@pytest.mark.parametrize("size", [0, 3])
def test_a_file_that_went_since_it_was_planned_is_missing(place, size):
    with pytest.raises(ObjectMissingError):
        place.child("a.jpg").read_range(0, size, etag="abc")


def test_an_open_file_seeks_as_files_do(place):
    file = place.child("letters")
    file.write_bytes(bytes(range(256)) * 1000)
    with file.open() as stream:
        assert stream.seek(-3, os.SEEK_END) == 255_997
        assert stream.read() == b"\xfd\xfe\xff"
        assert stream.read(5) == b""
        assert stream.seek(1000) == 1000
        assert stream.read(4) == bytes([232, 233, 234, 235])
        assert stream.seek(-2, os.SEEK_CUR) == 1002
        assert stream.tell() == 1002
        assert stream.read(100_000) == (bytes(range(256)) * 1000)[1002:101_002]
        assert stream.seek(10**6) == 10**6
        assert stream.read(1) == b""
        with pytest.raises(OSError, match="before the start"):
            stream.seek(-1)


def test_an_open_file_that_is_replaced_says_so(place):
    file = place.child("letters")
    file.write_bytes(bytes(200_000))
    with file.open() as stream:
        stream.read(1)
        file.write_bytes(bytes(200_001))
        stream.seek(150_000)
        with pytest.raises(ObjectChangedError):
            stream.read(1)


@pytest.mark.parametrize("name", ["a.zip", "Uploads 100% #1?.zip"])
def test_archives_are_listed_and_unpacked_where_they_lie(place, name):
    with zipfile.ZipFile(sink := pa.BufferOutputStream(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("p1/a.jpg", b"a" * 1000)
        archive.writestr("p2/b.jpg", os.urandom(100_000))
    stored = place.child(name)
    stored.write_bytes(sink.getvalue().to_pybytes())
    with stored.open() as file:
        members = list_members(file, "zip")
    etag = stored.stat().etag
    for member in members:
        blob = stored.read_range(member.offset, member.size, etag=etag)
        data = unpack_member(blob, member.packing, member.data_size, member.crc32, 1 << 20)
        assert len(data) == member.data_size
    assert [member.name for member in members] == ["p1/a.jpg", "p2/b.jpg"]


@pytest.mark.parametrize(("kind", "most"), [("zip", 3), ("tar", 4)])
def test_the_directory_of_an_archive_takes_few_requests(tmp_path, monkeypatch, kind, most):
    sink = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(sink, "w") as packed:
            for number in range(50):
                packed.writestr(f"{number}.jpg", bytes(2000))
    else:
        with tarfile.open(fileobj=sink, mode="w") as packed:
            for number in range(50):
                entry = tarfile.TarInfo(f"{number}.jpg")
                entry.size = 2000
                packed.addfile(entry, io.BytesIO(bytes(2000)))
    archive = Location(str(tmp_path / "archive"))
    archive.write_bytes(sink.getvalue())
    requests = []
    read_range = Location.read_range

    def counted(place, start, size, *, etag=None):
        requests.append((start, size))
        return read_range(place, start, size, etag=etag)

    monkeypatch.setattr(Location, "read_range", counted)
    with archive.open() as file:
        assert len(list_members(file, kind)) == 50
    assert len(requests) <= most, requests


def test_pyarrow_reads_a_dataset_there(place):
    table = pa.table({"n": [1, 2, 3]})
    for number in range(2):
        pq.write_table(table, sink := pa.BufferOutputStream())
        place.child("results", f"run={number}", "unit.parquet").write_bytes(sink.getvalue().to_pybytes())
    filesystem, path = arrow_filesystem(place.child("results"))
    read = pads.dataset(path, filesystem=filesystem, partitioning="hive").to_table()
    assert sorted(read["n"].to_pylist()) == [1, 1, 2, 2, 3, 3]
    assert set(read["run"].to_pylist()) == {0, 1}


# Writing


def test_what_is_written_replaces_what_was_there(place):
    file = place.child("a", "b", "c.jpg")
    file.write_bytes(b"first")
    file.write_bytes(b"2")
    assert file.read_bytes() == b"2"
    assert keys(place) == ["a/b/c.jpg"]


def test_what_is_there_already_is_not_written_over(place):
    file = place.child("lock")
    file.write_bytes(b"mine", only_if_absent=True)
    with pytest.raises(ObjectExistsError, match="is there already"):
        file.write_bytes(b"yours", only_if_absent=True)
    assert file.read_bytes() == b"mine"
    assert keys(place) == ["lock"]


def test_of_many_writers_at_once_exactly_one_wins(place):
    place.child("warm").write_bytes(b"")
    for round_number in range(5):
        file = place.child(f"lock-{round_number}")
        start = threading.Barrier(6)
        outcomes: list[str] = []

        def write(name: str, file=file, start=start, outcomes=outcomes) -> None:
            start.wait()
            try:
                file.write_bytes(name.encode() * 1000, only_if_absent=True)
                outcomes.append(name)
            except ObjectExistsError:
                outcomes.append("")

        threads = [threading.Thread(target=write, args=(str(number),)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = filter(None, outcomes)
        assert len(outcomes) == 6
        assert file.read_bytes() == winner.encode() * 1000


# Removing


def test_a_removed_file_is_gone_and_can_be_written_again(place):
    put(place, "a/b.jpg", "a/c.jpg")
    file = place.child("a", "b.jpg")
    file.delete()
    assert not file.exists()
    assert keys(place) == ["a/c.jpg"]
    file.write_bytes(b"again", only_if_absent=True)
    assert file.read_bytes() == b"again"


def test_removing_what_is_not_there_is_no_error(place):
    put(place, "a.jpg")
    for missing in (place.child("no.jpg"), place.child("no", "b.jpg"), place.child("a.jpg", "below")):
        missing.delete()
    assert keys(place) == ["a.jpg"]


# Places


def test_a_place_travels_between_processes_without_its_client(place):
    put(place, "a.jpg")
    sent = pickle.dumps(place)
    assert b"testing12" not in sent
    assert b"boto" not in sent
    back = pickle.loads(sent)
    assert back == place
    assert hash(back) == hash(place)
    assert keys(back) == ["a.jpg"]
    assert "testing12" not in repr(back)


def test_a_place_contains_itself_and_what_is_below(place):
    assert place.contains(place)
    assert place.contains(place.child("a", "b"))
    assert not place.child("a").contains(place)
    assert not place.child("a").contains(place.child("ab"))


# Writing under a condition


def test_a_file_is_replaced_only_over_the_one_that_was_seen(place):
    file = place.child("lock.json")
    file.write_bytes(b"one")
    first = file.stat().etag
    file.write_bytes(b"two", if_etag=first)
    second = file.stat().etag
    assert second != first
    with pytest.raises(ObjectChangedError):
        file.write_bytes(b"six", if_etag=first)
    assert file.read_bytes() == b"two"
    file.delete()
    with pytest.raises(ObjectMissingError):
        file.write_bytes(b"six", if_etag=second)
    assert keys(place) == []


def test_of_many_that_replace_the_same_file_at_once_one_does(place):
    file = place.child("lock.json")
    file.write_bytes(b"seen")
    seen = file.stat().etag

    def replace_it(number: int) -> bool:
        try:
            file.write_bytes(b"%04d" % number, if_etag=seen)
        except ObjectChangedError:
            return False
        return True

    with ThreadPoolExecutor(12) as threads:
        did = list(threads.map(replace_it, range(12)))
    assert sum(did) == 1
    assert file.read_bytes() == b"%04d" % did.index(True)
    assert keys(place) == ["lock.json"]
