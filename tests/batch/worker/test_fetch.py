"""The bytes of planned micrographs, from every packing, and what is wrong with them as a reason."""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archive_files import tar_gz_of
from support.dark_cells import EXPECTED, name_of, picture, tar_of, write_uploads, zip_of
from support.fault_proxy import Fault, FaultProxy, Kind

from spermseg.batch.listing import list_uploads
from spermseg.batch.worker import fetch
from spermseg.batch.worker.fetch import DENIED, LARGEST_FILE, READ_AT_ONCE, Fetched, fetch_all, fetch_jobs
from spermseg.errors import StorageError
from spermseg.storage.filesystem import Location
from spermseg.table.plan import CHANGED, GONE, Identity, Plan, Planned, encode_plan

IDENTITY = Identity(model_sha256="m", recipe_sha256="s")
PICTURES = [(f"patient-1/{n}.png", picture(n)) for n in range(6)]


ANYWHERE = Location("/")


def listed(source: Location) -> list[Planned]:
    return list(list_uploads(source, IDENTITY))


def only(source: Location) -> Planned:
    (one,) = listed(source)
    return one


def fetch_one(one: Planned, source: Location = ANYWHERE) -> Fetched:
    (fetched,) = fetch_all([one], source)
    return fetched


def planned(number: int, **changes) -> Planned:
    return Planned(image_id=f"{number:032x}", uri=f"/uploads/{number}", size=1, data_size=1, etag="e", **changes)


def test_every_packing_is_fetched_to_the_bytes_that_were_uploaded_on_every_storage(place):
    write_uploads(place)
    place.child("thursday.tgz").write_bytes(tar_gz_of(PICTURES))
    wanted = {name: picture(cells, name[-4:]) for name, cells in EXPECTED.items()}
    wanted |= {f"thursday.tgz/{name}": data for name, data in PICTURES}
    uploads = listed(place)
    fetched = dict(zip((name_of(vars(one), place) for one in uploads), fetch_all(uploads, place), strict=True))
    assert {name: fetched[name] for name in wanted} == {name: Fetched(data=data) for name, data in wanted.items()}
    assert all(
        fetched[name].reason for name in fetched.keys() - wanted.keys() if name.endswith((".zip", ".tar", ".tgz"))
    )


def test_an_upload_that_changed_or_went_since_it_was_planned_is_rejected_on_every_storage(place):
    upload = place.child("a.png")
    upload.write_bytes(picture(1))
    one = only(place)
    upload.write_bytes(picture(2))
    assert fetch_one(one, place) == Fetched(reason=CHANGED)
    assert fetch_one(replace(one, uri=place.child("b.png").uri), place) == Fetched(reason=GONE)


def test_members_of_a_compressed_archive_that_changed_or_went_are_rejected_on_every_storage(place):
    archive = place.child("a.tgz")
    archive.write_bytes(tar_gz_of(PICTURES))
    members = listed(place)
    archive.write_bytes(tar_gz_of(PICTURES[1:]))
    assert list(fetch_all(members, place)) == [Fetched(reason=CHANGED)] * len(PICTURES)
    archive.delete()
    assert list(fetch_all(members, place)) == [Fetched(reason=GONE)] * len(PICTURES)


def test_a_compressed_archive_is_read_once_however_many_of_its_members_are_wanted(tmp_path, monkeypatch):
    Location(str(tmp_path / "a.tgz")).write_bytes(tar_gz_of(PICTURES))
    opened = []
    stream = fetch.stream_members

    def counted(file, wanted: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        opened.append(1)
        return stream(file, wanted)

    monkeypatch.setattr(fetch, "stream_members", counted)
    members = listed(Location(str(tmp_path)))
    members[2] = replace(members[2], reason="a link")
    wanted = [Fetched(data=data) for _, data in PICTURES]
    wanted[2] = Fetched(reason="a link")
    assert list(fetch_all(members, ANYWHERE)) == wanted
    assert list(fetch_all(members[3:], ANYWHERE)) == wanted[3:]
    assert len(opened) == 2


@given(st.permutations(range(len(PICTURES))))
def test_members_of_a_compressed_archive_are_fetched_in_whatever_order_they_are_planned(order):
    with TemporaryDirectory() as folder:
        Location(f"{folder}/a.tgz").write_bytes(tar_gz_of(PICTURES))
        members = listed(Location(folder))
        fetched = list(fetch_all([members[number] for number in order], ANYWHERE))
    assert fetched == [Fetched(data=PICTURES[number][1]) for number in order]


def test_where_a_compressed_archive_breaks_off_the_members_that_follow_are_rejected(tmp_path):
    file = tmp_path / "a.tgz"
    file.write_bytes(tar_gz_of(PICTURES))
    members = listed(Location(str(tmp_path)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    now = only_etag(file)
    first, *_, last = fetch_all([replace(one, etag=now) for one in members], ANYWHERE)
    assert first == Fetched(data=PICTURES[0][1])
    assert "upload it again" in (last.reason or "")


def only_etag(file: Path) -> str:
    return Location(str(file)).stat().etag


def test_one_object_that_may_not_be_read_is_rejected_and_the_next_one_is_not(moto_server):
    bucket = moto_server.new_bucket()
    bucket.child("a.png").write_bytes(picture(1))
    bucket.child("b.png").write_bytes(picture(2))
    with FaultProxy(moto_server.endpoint_url) as proxy:
        proxy.inject(Fault(kind=Kind.DENIED, key="a.png", times=None))
        source = Location(bucket.uri, proxy.endpoint_url)
        uploads = listed(source)
        assert list(fetch_all(uploads, source)) == [Fetched(reason=DENIED), Fetched(data=picture(2))]


def test_a_member_whose_checksum_is_wrong_is_rejected(tmp_path):
    source = Location(str(tmp_path / "a.zip"))
    source.write_bytes(zip_of([("a.png", picture(1))]).replace(b"\x89PNG", b"\x88PNG", 1))
    assert (fetch_one(only(source)).reason or "").startswith("its checksum is")


def test_what_is_planned_as_rejected_or_too_large_is_never_read(monkeypatch):
    monkeypatch.setattr(Location, "read_range", None)
    assert fetch_one(planned(1, reason="encrypted")) == Fetched(reason="encrypted")
    for size in ({"size": LARGEST_FILE + 1}, {"data_size": LARGEST_FILE + 1}):
        reason = fetch_one(replace(planned(1), **size)).reason
        assert reason == f"the file has {LARGEST_FILE + 1} bytes; at most {LARGEST_FILE} are read"


def test_a_storage_that_fails_says_nothing_of_the_upload(monkeypatch):
    def refuse(self, *where, etag):
        raise StorageError("s3://clinic/a.png: the credentials have expired")

    monkeypatch.setattr(Location, "read_range", refuse)
    with pytest.raises(StorageError, match="have expired"):
        fetch_one(planned(1))


def test_a_tar_member_holds_no_more_than_its_own_bytes(tmp_path):
    source = Location(str(tmp_path / "a.tar"))
    source.write_bytes(tar_of([("a.png", b"abc")]))
    assert fetch_one(only(source)).data == b"abc"


def member_of(archive: str, number: int) -> Planned:
    packing = "tar-gz" if archive.endswith("gz") else "tar"
    return replace(planned(number), uri=archive, member=f"{number}", packing=packing)


@given(st.lists(st.sampled_from(["plain", "/a.tgz", "/b.tar.gz", "/c.tar"]), min_size=1, max_size=12))
def test_units_are_fetched_one_by_one_but_for_those_of_one_compressed_archive(tmp_path_factory, kinds):
    units = [
        [replace(planned(n), uri=f"/{n}.png") if kind == "plain" else member_of(kind, n)]
        for n, kind in enumerate(kinds)
    ]
    place = Location(str(tmp_path_factory.mktemp("plan") / "plan.parquet"))
    place.write_bytes(encode_plan(units, {})[0])
    jobs = list(fetch_jobs(Plan(place), range(len(units))))
    assert [number for job in jobs for number in job] == list(range(len(units)))
    for job in jobs:
        uris = {units[number][0].uri for number in job}
        assert len(uris) == 1
        assert len(job) == 1 or uris <= {"/a.tgz", "/b.tar.gz"}
    for before, after in pairwise(jobs):
        uri = units[after[0]][0].uri
        assert units[before[-1]][0].uri != uri or not uri.endswith("gz")


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_files_are_read_several_at_a_time_in_order_and_never_more_bytes_than_allowed(sizes, allowed):
    reading: list[int] = []
    most = [0, 0]
    lock = threading.Lock()

    def read(self, start, size, *, etag):
        with lock:
            reading.append(size)
            most[0] = max(most[0], len(reading))
            most[1] = max(most[1], sum(reading) if len(reading) > 1 else 0)
        time.sleep(0.001)
        with lock:
            reading.remove(size)
        return bytes([size]) * size

    wanted = [replace(planned(n), size=size, data_size=size) for n, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Location, "read_range", read)
        patch.setattr(fetch, "BYTES_AT_ONCE", allowed)
        assert [len(one.data) for one in fetch_all(wanted, ANYWHERE)] == sizes
    assert most[0] <= READ_AT_ONCE
    assert most[1] <= allowed


def test_so_many_files_of_a_unit_are_asked_for_at_once(monkeypatch):
    met = threading.Barrier(READ_AT_ONCE, timeout=60)

    def read(self, start, size, *, etag):
        met.wait()
        return b"x"

    monkeypatch.setattr(Location, "read_range", read)
    wanted = [planned(n) for n in range(3 * READ_AT_ONCE)]
    assert list(fetch_all(wanted, ANYWHERE)) == [Fetched(data=b"x")] * len(wanted)


def test_an_outage_ends_the_unit_and_what_is_not_asked_for_never_is(monkeypatch):
    asked = []

    def read(self, start, size, *, etag):
        asked.append(self.uri)
        if self.uri == "/uploads/3":
            raise StorageError("the server does not answer")
        return b"x"

    monkeypatch.setattr(Location, "read_range", read)
    fetched = fetch_all([planned(n) for n in range(64)], ANYWHERE)
    assert [next(fetched).data for _ in range(3)] == [b"x"] * 3
    with pytest.raises(StorageError, match="does not answer"):
        next(fetched)
    assert len(asked) <= 3 + READ_AT_ONCE
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(fetch.READING)]


def test_one_client_is_made_however_many_threads_read(moto_server, monkeypatch):
    bucket = moto_server.new_bucket()
    for number in range(READ_AT_ONCE):
        bucket.child(f"{number}.png").write_bytes(picture(number))
    uploads = listed(bucket)
    fetch.client.cache_clear()
    made = []
    session = boto3.session.Session
    monkeypatch.setattr(boto3.session, "Session", lambda: made.append(1) or session())
    assert [one.data for one in fetch_all(uploads, bucket)] == [picture(n) for n in range(READ_AT_ONCE)]
    assert len(made) == 1
