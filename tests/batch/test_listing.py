"""What uploads of every kind become: a row each, or a count of what nobody uploaded."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.archive_files import tar_gz_of, tar_with, zip_of
from support.dark_cells import night_over, picture, run_in_process, tar_of

from spermseg.batch import run
from spermseg.batch.group_limit import within_group_limit
from spermseg.batch.listing import NO_FILE, SYSTEM_FILES_ONLY, list_uploads
from spermseg.batch.run import segment_night
from spermseg.batch.worker.fetch import Fetched, fetch_all
from spermseg.errors import ConfigError
from spermseg.storage.archives.directory import Member
from spermseg.storage.filesystem import Location
from spermseg.storage.local.uploads import LEADS_OUT, LINKED
from spermseg.storage.local.uploads import NO_FILE as NOT_A_FILE
from spermseg.storage.system_files import SYSTEM_FILES
from spermseg.table.plan import CHANGED, DENIED, Identity, Planned
from spermseg.table.results import REJECTED, read_units
from spermseg.table.verify import verify

IDENTITY = Identity(model_sha256="m", recipe_sha256="s")
APART, TOGETHER = "Mu\u0308ller", "M\u00fcller"
PAIRS = [("patient-1/a.png", picture(1))]


@pytest.fixture
def source(tmp_path) -> Location:
    return Location(str(tmp_path / "uploads"))


def listed(source: Location) -> list[Planned]:
    return list(list_uploads(source, IDENTITY))


# Files of operating systems


SYSTEM_NAMES = (
    *("ada/._1.png", "ada/.DS_Store", "ada/Thumbs.db", "ada/DESKTOP.INI", "__MACOSX/ada/1.png"),
    *("ada/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/1.png", "__MACOSX/._ada"),
)


def test_files_of_operating_systems_are_no_uploads_and_are_counted_on_every_storage(place):
    place.child("ada", "1.png").write_bytes(picture(1))
    for name in SYSTEM_NAMES:
        place.child(name).write_bytes(picture(2))
    place.child("finder.zip").write_bytes(zip_of([("ada/2.png", b"x"), *((name, b"y") for name in SYSTEM_NAMES)]))
    place.child("finder.tgz").write_bytes(tar_gz_of([("ada/3.png", b"x"), *((name, b"y") for name in SYSTEM_NAMES)]))
    passed_over: Counter[str] = Counter()
    found = [one.member or one.uri.rpartition("/")[2] for one in list_uploads(place, IDENTITY, passed_over)]
    assert found == ["1.png", "ada/3.png", "ada/2.png"]
    assert passed_over == {SYSTEM_FILES: 3 * len(SYSTEM_NAMES)}


def test_a_member_has_the_id_that_it_had_when_files_of_operating_systems_were_rows(source):
    source.child("a.zip").write_bytes(zip_of([("__MACOSX/._1.png", b"x"), ("1.png", b"y")]))
    (one,) = listed(source)
    (item,) = source.list_uploads()
    member = Member(name="1.png", offset=0, size=0, packing="", data_size=0)
    assert one.image_id == IDENTITY.image_id(item, member, 1)


@pytest.mark.usefixtures("without_ray")
def test_the_receipt_says_what_was_passed_over_also_when_the_run_was_cut_off(source, tmp_path, model, monkeypatch):
    out = Location(str(tmp_path / "out"))
    source.child("ada", "1.png").write_bytes(picture(1))
    for name in SYSTEM_NAMES:
        source.child(name).write_bytes(b"x")
    Path(source.path, "again.png").symlink_to("ada/1.png")

    def cut_off(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_pipeline", cut_off)
    with pytest.raises(KeyboardInterrupt):
        segment_night(night_over(source, out, model), lambda progress: None)
    source.child(SYSTEM_NAMES[0]).delete()
    monkeypatch.setattr(run, "run_pipeline", run_in_process)
    (receipt,) = segment_night(night_over(source, out, model, take_over=True), lambda progress: None)
    assert (receipt.planned, receipt.rejected) == (1, 0)
    assert receipt.passed_over == {SYSTEM_FILES: len(SYSTEM_NAMES), LINKED: 1}
    assert verify(out) == (1, [])


@pytest.mark.usefixtures("without_ray")
def test_an_input_of_nothing_but_files_of_operating_systems_holds_no_file_and_says_what_it_holds(
    source, tmp_path, model
):
    source.child(".DS_Store").write_bytes(b"x")
    with pytest.raises(ConfigError, match=rf"holds no file \(1 {SYSTEM_FILES} were passed over\)"):
        segment_night(night_over(source, Location(str(tmp_path / "out")), model), lambda progress: None)


# Archives


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_an_archive_that_holds_no_file_is_one_rejected_upload(source, kind):
    pack = {"zip": zip_of, "tar": tar_of, "tgz": tar_gz_of}[kind]
    source.child(f"empty.{kind}").write_bytes(pack([]))
    source.child(f"finder.{kind}").write_bytes(pack([("__MACOSX/._1.png", b"x")]))
    assert [(one.uri.rpartition("/")[2], one.reason) for one in listed(source)] == [
        (f"empty.{kind}", NO_FILE),
        (f"finder.{kind}", SYSTEM_FILES_ONLY),
    ]


def test_archives_under_a_wrong_name_are_read_for_what_they_are(source):
    blobs = {"a.zip": tar_of(PAIRS), "b.tar": zip_of(PAIRS), "c.tar.gz": tar_of(PAIRS), "d.tar": tar_gz_of(PAIRS)}
    blobs |= {"e.gz": tar_gz_of(PAIRS), "f.7z": zip_of(PAIRS), "g.zip": tar_gz_of(PAIRS)}
    for name, blob in blobs.items():
        source.child(name).write_bytes(blob)
    planned = listed(source)
    assert [(one.uri.rpartition("/")[2], one.member, one.group) for one in planned] == [
        (name, "patient-1/a.png", "patient-1") for name in blobs
    ]
    assert list(fetch_all(planned, source)) == [Fetched(data=picture(1))] * len(blobs)


def test_a_picture_under_the_name_of_an_archive_is_a_picture(source):
    source.child("ada", "1.zip").write_bytes(picture(1, ".jpg"))
    (one,) = listed(source)
    assert (one.member, one.reason, one.group) == (None, None, "ada")
    assert list(fetch_all([one], source)) == [Fetched(data=picture(1, ".jpg"))]


def test_rejected_members_of_a_compressed_archive_stay_in_the_pass_over_it(source):
    source.child("a.tgz").write_bytes(tar_with("1.png", "inner.zip", "2.png", compress=True))
    assert [(one.packing, bool(one.reason)) for one in listed(source)] == [
        ("tar-gz", False),
        ("tar-gz", True),
        ("tar-gz", False),
    ]


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_what_is_more_than_an_archive_may_unpack_to_is_rejected(source, kind):
    pairs = [(f"{number}.png", os.urandom(5000)) for number in range(4)]
    source.child(f"large.{kind}").write_bytes({"zip": zip_of, "tar": tar_of, "tgz": tar_gz_of}[kind](pairs))
    reasons = [one.reason for one in list_uploads(source, IDENTITY, max_unpacked=12_000)]
    assert reasons[:2] == [None, None]
    assert len(reasons) > 2
    assert all("unpacked to more than 12000 bytes" in (reason or "") for reason in reasons[2:])
    assert all(one.reason is None for one in list_uploads(source, IDENTITY, max_unpacked=50_000))


# Groups


def test_a_patient_is_one_group_however_the_accents_of_the_name_are_written(source):
    for name in (APART, TOGETHER):
        source.child(name, "1.png").write_bytes(b"x")
        source.child(f"of-{name}.zip").write_bytes(zip_of([(f"{name}/2.png", b"x"), ("3.png", b"x")]))
    planned = listed(source)
    assert Counter(one.group for one in planned) == {TOGETHER: 4, f"of-{TOGETHER}": 2}
    assert all(fetched.data == b"x" for fetched in fetch_all(planned, source))  # under the names that they have


def test_backslashes_in_the_names_of_a_zip_part_its_folders(source):
    pairs = [("patient-1\\", b""), ("patient-1\\a.png", b"1"), ("patient-2\\s\\b.png", b"2")]
    source.child("windows.zip").write_bytes(zip_of(pairs))
    assert [(one.group, one.member) for one in listed(source)] == [
        ("patient-1", "patient-1/a.png"),
        ("patient-2", "patient-2/s/b.png"),
    ]


def test_the_drive_of_a_zip_packed_with_its_whole_paths_is_no_patient(source):
    source.child("windows.zip").write_bytes(zip_of([("C:\\x\\a.png", b"1"), ("d:/y/b.png", b"2")]))
    assert [one.group for one in listed(source)] == ["x", "y"]


# What is no plain file


def test_what_cannot_be_read_is_a_rejected_row_of_its_group(source, tmp_path):
    source.child("ada", "1.png").write_bytes(picture(1))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "1.png").write_bytes(picture(2))
    Path(source.path, "bob").symlink_to(tmp_path / "outside")
    Path(source.path, "ada", "2.png").symlink_to(tmp_path / "outside" / "1.png")
    os.mkfifo(Path(source.path, "ada", "3.zip"))
    planned = listed(source)
    assert [(one.group, one.reason) for one in planned] == [
        ("ada", None),
        ("ada", LEADS_OUT),
        ("ada", NOT_A_FILE),
        ("bob", LEADS_OUT),
    ]
    assert [bool(one.data) for one in fetch_all(planned, source)] == [True, False, False, False]


@pytest.mark.parametrize("name", ["1.png", "1.zip", "1.tgz"])
def test_a_link_that_is_put_in_the_place_of_a_planned_upload_is_not_read(source, tmp_path, name):
    blob = {"png": picture(1), "zip": zip_of(PAIRS), "tgz": tar_gz_of(PAIRS)}[name.rpartition(".")[2]]
    source.child("ada", name).write_bytes(blob)
    planned = listed(source)
    upload = Path(source.path, "ada", name)
    upload.rename(tmp_path / "moved")  # the very file, so that only the link tells
    upload.symlink_to(tmp_path / "moved")
    assert list(fetch_all(planned, source)) == [Fetched(reason=CHANGED)]


def test_a_plan_that_names_a_file_outside_of_the_input_is_not_followed(source, tmp_path):
    source.child("1.png").write_bytes(picture(1))
    (tmp_path / "secret.png").write_bytes(picture(2))
    (one,) = listed(source)
    for uri in (str(tmp_path / "secret.png"), f"{source.uri}/../secret.png", "s3://other/secret.png"):
        (fetched,) = fetch_all([replace(one, uri=uri)], source)
        assert (fetched.data, fetched.reason in (DENIED, "not found: removed since planned")) == (b"", True)


def test_an_object_whose_key_ends_in_a_slash_and_holds_bytes_is_an_upload(moto_server):
    bucket = moto_server.new_bucket()
    for key, data in (("p13/", b""), ("p13/a.jpg/", picture(1)), ("p14/", picture(2)), ("p13/b.jpg", picture(3))):
        bucket.upload(f"{bucket.uri}/{key}").write_bytes(data)
    planned = listed(bucket)
    assert {(one.uri.removeprefix(bucket.uri), one.group) for one in planned} == {
        ("/p13/a.jpg/", "p13"),
        ("/p13/b.jpg", "p13"),
        ("/p14/", "p14"),
    }
    assert {fetched.data for fetched in fetch_all(planned, bucket)} == {picture(1), picture(2), picture(3)}


# The most of a group


@pytest.mark.usefixtures("without_ray")
def test_what_a_group_has_beyond_its_megapixels_is_rejected_and_taken_by_a_retry_with_a_higher_limit(
    source, tmp_path, model
):
    out = Location(str(tmp_path / "out"))
    for number in range(3):
        source.child("ada", f"{number}.png").write_bytes(picture(number))  # of 0.01536 megapixels
        source.child("bob", f"{number}.tif").write_bytes(picture(number, ".tif"))
    source.child("eve.zip").write_bytes(zip_of([(f"{number}.png", picture(number)) for number in range(3)]))
    source.child("notes.txt").write_bytes(b"no picture")
    limited = night_over(source, out, model, max_megapixels_per_group=0.04)
    (receipt,) = segment_night(limited, lambda progress: None)
    assert (receipt.ok, receipt.rejected) == (6, 4)
    rejected = [row for table in read_units(out) for row in table.to_pylist() if row["status"] == REJECTED]
    over = [row for row in rejected if "--max-megapixels-per-group" in row["reason"]]
    assert sorted(row["member"] or row["uri"].rpartition("/")[2] for row in over) == ["2.png", "2.png", "2.tif"]
    retry = replace(limited, retry_rejected=True, max_megapixels_per_group=1.0)
    (second,) = segment_night(retry, lambda progress: None)
    assert (second.ok, second.rejected) == (3, 1)


def test_a_header_that_lies_far_back_is_found(source, monkeypatch):
    monkeypatch.setattr("spermseg.batch.group_limit.HEADER_BYTES", 20)
    for number in range(3):
        source.child("ada", f"{number}.png").write_bytes(picture(number))
    source.child("ada", "huge.png").write_bytes(picture(0, height=1500, width=1000))
    reasons = [one.reason for one in within_group_limit(listed(source), source, 0.04, 1.0)]
    assert [bool(reason) for reason in reasons] == [False, False, True, True]
    assert [one.reason for one in within_group_limit(listed(source), source, None, 1.0)] == [None] * 4


@pytest.mark.parametrize("limit", [{"max_megapixels_per_group": 0.0}, {"max_unpacked": 0}])
def test_a_limit_that_lets_nothing_through_is_refused(source, tmp_path, model, limit):
    with pytest.raises(ConfigError, match="more than 0 is needed"):
        night_over(source, Location(str(tmp_path / "out")), model, **limit)
