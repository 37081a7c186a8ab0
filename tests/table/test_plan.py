import io
import zipfile
from dataclasses import replace
from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dark_cells import EXPECTED, PLANNED, REASONS, name_of, picture, tar_of, write_uploads, zip_of

from spermseg.batch.listing import list_uploads
from spermseg.errors import ObjectChangedError, ObjectDeniedError, ObjectMissingError, RunError, StorageError
from spermseg.storage.archives.directory import Member
from spermseg.storage.filesystem import Location, StoredObject
from spermseg.table.plan import (
    CHANGED,
    DENIED,
    GONE,
    UNIT_BYTES,
    UNIT_MICROGRAPHS,
    Identity,
    Plan,
    Planned,
    encode_plan,
    retry_id,
    split_units,
)

IDENTITY = Identity(model_sha256="ab" * 32, recipe_sha256="cd" * 32)

sizes = st.integers(0, 2**20) | st.integers(0, 2 * UNIT_BYTES)
planned_lists = st.lists(st.tuples(sizes, sizes, st.booleans()), max_size=200).map(
    lambda found: [
        Planned(image_id=f"{n}", uri=f"/{n}", size=a, data_size=b, etag="e", reason="broken" if bad else None)
        for n, (a, b, bad) in enumerate(found)
    ]
)
texts = st.none() | st.text(max_size=20)
any_planned = st.builds(
    Planned,
    image_id=st.text(max_size=20),
    uri=st.text(max_size=20),
    member=texts,
    group=texts,
    packing=st.sampled_from(["", "tar", "zip-stored", "zip-deflate"]),
    offset=st.integers(0, 2**62),
    size=st.integers(0, 2**62),
    data_size=st.integers(0, 2**62),
    crc32=st.none() | st.integers(0, 2**32 - 1),
    etag=st.text(max_size=20),
    reason=texts,
)


def load(unit) -> int:
    """Bytes that a unit brings into memory."""
    return sum(max(one.size, one.data_size) for one in unit if not one.reason)


def listed(source: Location, identity: Identity = IDENTITY) -> dict[str, Planned]:
    found = {name_of(vars(one), source): one for one in list_uploads(source, identity)}
    assert len(found) == len(list(list_uploads(source, identity)))
    return found


@given(planned_lists)
def test_units_hold_every_planned_micrograph_once_and_in_order(planned):
    assert list(chain.from_iterable(split_units(planned))) == planned


@given(planned_lists, st.sampled_from([1, 3, UNIT_MICROGRAPHS]))
def test_a_unit_is_bounded_in_number_and_in_bytes_unless_one_file_alone_is_larger(planned, most):
    for unit in split_units(planned, most):
        assert 1 <= len(unit) <= most
        assert load(unit) <= UNIT_BYTES or len(unit) == 1


@given(planned_lists, st.sampled_from([1, 3, UNIT_MICROGRAPHS]))
def test_a_unit_is_closed_only_when_the_next_micrograph_does_not_fit(planned, most):
    for unit, following in pairwise(split_units(planned, most)):
        assert len(unit) == most or load([*unit, following[0]]) > UNIT_BYTES


@given(units=st.lists(st.lists(any_planned, min_size=1, max_size=5), max_size=5), note=st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_stored_plan_reads_back_as_it_was(units, note, tmp_path_factory):
    place = Location(str(tmp_path_factory.mktemp("plan") / "plan.parquet"))
    data, planned = encode_plan(units, {"note": note})
    place.write_bytes(data)
    plan = Plan(place)
    assert planned == len(plan) == sum(map(len, units))
    assert [plan.unit(number) for number in range(plan.units)] == units
    assert list(plan.image_ids()) == [one.image_id for one in chain.from_iterable(units)]
    assert plan.metadata == {"note": note}


@given(st.lists(st.text(max_size=3), min_size=1, max_size=3), st.lists(st.text(max_size=3), min_size=1, max_size=3))
@settings(deadline=None)
def test_units_of_different_image_ids_have_different_names(one, other):
    names = []
    for ids in (one, other):
        unit = [Planned(image_id=text, uri="/a", size=1, data_size=1, etag="e") for text in ids]
        place = MemoryPlace(encode_plan([unit], {})[0])
        names.append(Plan(place).unit_id(0))
    assert (names[0] == names[1]) == (one == other)


class MemoryPlace:
    """A file in memory."""

    uri = "memory"

    def __init__(self, data: bytes) -> None:
        self.data = data

    def open(self, read_ahead=0):
        return io.BytesIO(self.data)


def test_every_file_and_member_is_planned_on_every_storage(place):
    write_uploads(place)
    found = listed(place)
    assert len(found) == PLANNED
    assert found.keys() == EXPECTED.keys() | REASONS.keys()
    assert len({one.image_id for one in found.values()}) == PLANNED
    whole = ("broken/monday.tgz", "broken/archive.zip", "broken/archive.tar")
    for name, one in found.items():
        assert (one.reason or "").startswith(REASONS[name]) if name in whole else one.reason is None
    assert found["courier.zip/patient-0/session-1/0.png"].packing == "zip-stored"
    assert found["courier.zip/patient-1/session-1/1.png"].packing == "zip-deflate"
    assert found["archive.tar/patient-7/a.bmp"].packing == "tar"


def test_the_group_is_the_first_folder_of_the_path_or_in_the_archive_or_else_the_archive(tmp_path):
    source = Location(str(tmp_path))
    source.child("loose.png").write_bytes(picture(1))
    source.child("ann", "2026", "deep.png").write_bytes(picture(1))
    source.child("ann", "more.zip").write_bytes(zip_of([("bob/1.png", b"1")]))
    source.child("tonight.zip").write_bytes(zip_of([("bob/s/1.png", b"1"), ("2.png", b"2")]))
    source.child("monday.tar").write_bytes(tar_of([("./eve/1.png", b"1")]))
    groups = {name: one.group for name, one in listed(source).items()}
    assert groups == {
        "loose.png": None,
        "ann/2026/deep.png": "ann",
        "ann/more.zip/bob/1.png": "ann",
        "tonight.zip/bob/s/1.png": "bob",
        "tonight.zip/2.png": "tonight",
        "monday.tar/./eve/1.png": "eve",
    }


def test_the_same_uploads_have_the_same_ids_and_any_change_gives_new_ones(uploads):
    first = listed(uploads)
    assert listed(uploads) == first
    for other in (replace(IDENTITY, model_sha256="0" * 64), replace(IDENTITY, recipe_sha256="0" * 64)):
        assert {one.image_id for one in listed(uploads, other).values()}.isdisjoint(
            one.image_id for one in first.values()
        )
    uploads.child("patient-0/0.png").write_bytes(picture(5))
    uploads.child("archive.tar").write_bytes(tar_of([("patient-7/a.bmp", picture(1, ".bmp"))]))
    second = listed(uploads)
    changed = {name for name in second if second[name].image_id != first[name].image_id}
    assert changed == {"patient-0/0.png", "archive.tar/patient-7/a.bmp"}


def test_an_upload_has_the_id_that_it_had_in_every_version():
    """Else every table would be segmented again, beside its old rows."""
    plain = StoredObject(uri='s3://clinic/Zoë "1".jpg', key="a.jpg", size=7, etag="ab-1")
    member = Member(name="b/1.png", offset=0, size=9, packing="tar", data_size=9)
    assert IDENTITY.image_id(plain) == "6b91a52601ab55dee7523acc456de5e2"
    assert IDENTITY.image_id(plain, member, 3) == "46cc998b80a28b1cba719ea4d450561a"
    assert retry_id("ab" * 16) == "66c2be1196f92e8cdee8fb64733e24fb"


@given(units=st.lists(st.lists(any_planned, min_size=1, max_size=5), max_size=5))
@settings(max_examples=30, deadline=None)
def test_all_units_are_named_at_once_as_they_are_one_by_one(units):
    plan = Plan(MemoryPlace(encode_plan(units, {})[0]))
    assert list(plan.unit_ids()) == [plan.unit_id(number) for number in range(plan.units)]


def test_archives_between_many_files_are_planned_in_the_order_of_the_paths(tmp_path, monkeypatch):
    monkeypatch.setattr("spermseg.batch.listing.FILES_AT_ONCE", 3)
    source = Location(str(tmp_path))
    for number in range(40):
        if number % 7 in (0, 1, 6):
            members = [(f"{n}.png", b"1") for n in range(number % 5)]
            source.child(f"{number:02}.zip").write_bytes(zip_of(members))
        else:
            source.child(f"{number:02}.png").write_bytes(b"1")
    planned = list(list_uploads(source, IDENTITY))
    names = [name_of(vars(one), source) for one in planned]
    assert names == sorted(names)
    assert len(names) == sum(max(1, n % 5) if n % 7 in (0, 1, 6) else 1 for n in range(40))


def test_one_file_or_one_archive_is_an_input_too(uploads):
    assert [one.uri for one in list_uploads(uploads.child("patient-0/0.png"), IDENTITY)] == [
        f"{uploads.uri}/patient-0/0.png"
    ]
    assert len(list(list_uploads(uploads.child("courier.zip"), IDENTITY))) == 7
    assert not list(list_uploads(uploads.child("nothing"), IDENTITY))


def test_a_member_that_an_archive_lists_twice_has_two_ids(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", picture(1))
        archive.filelist.append(archive.filelist[0])
    source = Location(str(tmp_path))
    source.child("hostile.zip").write_bytes(file.getvalue())
    planned = list(list_uploads(source, IDENTITY))
    assert len(planned) == 2
    assert len({one.image_id for one in planned}) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ObjectChangedError("s3://b/a.zip changed"), CHANGED),
        (ObjectMissingError("s3://b/a.zip is not there"), GONE),
        (ObjectDeniedError("s3://b/a.zip may not be read"), DENIED),
    ],
)
def test_an_archive_that_changes_goes_or_may_not_be_read_while_it_is_planned_is_one_rejected_upload(
    uploads, monkeypatch, error, reason
):
    fail_to_open(monkeypatch, error)
    found = listed(uploads)
    assert (found["courier.zip"].reason, found["archive.tar"].reason) == (reason, reason)
    assert found["patient-0/0.png"].reason is None


def test_a_storage_that_fails_stops_the_plan_and_rejects_nothing(uploads, monkeypatch):
    fail_to_open(monkeypatch, StorageError("s3://clinic/a.zip: access denied (InvalidAccessKeyId)"))
    with pytest.raises(StorageError, match="access denied"):
        list(list_uploads(uploads, IDENTITY))


def fail_to_open(monkeypatch, error: Exception) -> None:
    def refuse(self):
        raise error

    monkeypatch.setattr(Location, "open", refuse)


def test_a_damaged_plan_is_one_line_that_says_what_to_do(tmp_path):
    place = Location(str(tmp_path / "plan.parquet"))
    place.write_bytes(b"PAR1 not a plan")
    with pytest.raises(RunError, match=r"plan\.parquet is damaged .*with --check-files repairs the table") as caught:
        Plan(place)
    assert "\n" not in caught.value.message
