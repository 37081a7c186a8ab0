"""Names of places, and what only folders of this machine can do: links, permissions, names that are no text."""

import os
from pathlib import Path

import pytest
from places import keys, put

from spermseg.errors import (
    ConfigError,
    ObjectExistsError,
    ObjectMissingError,
    SpermsegError,
    StorageError,
)
from spermseg.storage.filesystem import Location, storable

# Names of places


@pytest.mark.parametrize(
    ("given_uri", "uri"),
    [
        ("/data/uploads/", "/data/uploads"),
        ("/data//a/../uploads/.", "/data/uploads"),
        ("//data", "/data"),
        ("/", "/"),
        ("file:///data/a%20b", "/data/a b"),
        ("/data/a%20b", "/data/a%20b"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a//b.jpg", "s3://bucket/a//b.jpg"),
        ("s3://bucket/x://y", "s3://bucket/x://y"),
    ],
)
def test_a_uri_is_made_complete(given_uri, uri):
    place = Location(given_uri)
    assert place.uri == uri
    assert Location(place.uri) == place


def test_relative_paths_and_homes_are_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/clinic")
    assert Location("a/b").uri == str(tmp_path / "a/b")
    assert Location(".").uri == str(tmp_path)
    assert Location("~/uploads").uri == "/home/clinic/uploads"


@pytest.mark.parametrize(
    "uri", ["", "s3://", "s3:///key", "http://host/a", "gs://b", "S3A://b", "file://host/a", "~nosuchuser/a"]
)
def test_what_is_no_place_is_refused_in_one_line(uri):
    with pytest.raises(ConfigError, match=r"^got [^\n]+; give|^got [^\n]+; spermseg reads"):
        Location(uri)


@pytest.mark.parametrize("root", ["/", "/data", "s3://bucket", "s3://bucket/p"])
def test_a_child_lies_below_and_has_the_last_name(root):
    child = Location(root).child("2026", "a.jpg")
    assert child.uri == root.rstrip("/") + "/2026/a.jpg"
    assert child.name == "a.jpg"
    assert Location(root).contains(child)


# Folders of this machine


def test_links_to_files_are_listed_and_links_to_folders_are_not(tmp_path):
    place = Location(str(tmp_path / "in"))
    put(place, "a.jpg")
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "broken.jpg").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    assert keys(place) == ["a.jpg", "b.jpg"]


def test_a_link_does_not_hide_that_one_place_lies_in_another(tmp_path):
    (tmp_path / "data" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert Location(str(tmp_path / "data")).contains(Location(str(tmp_path / "link" / "out")))


def test_a_name_that_is_no_text_is_listed_with_escapes_and_is_missing_when_opened(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    (item,) = Location(str(tmp_path)).list()
    assert item.key == "caf\\xe9.jpg"
    assert item.uri.encode().endswith(b"caf\\xe9.jpg")
    with pytest.raises(ObjectMissingError):
        Location(item.uri).read_bytes()


@pytest.mark.parametrize("only_if_absent", [False, True])
def test_a_written_file_can_be_read_by_whom_the_umask_lets(tmp_path, only_if_absent):
    before = os.umask(0o022)
    try:
        Location(str(tmp_path / "a")).write_bytes(b"x", only_if_absent=only_if_absent)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("only_if_absent", [False, True])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, only_if_absent):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="could not be written: No space left on device"):
        Location(str(tmp_path / "a")).write_bytes(b"x", only_if_absent=only_if_absent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", [("b",), ("b", "c")])
def test_a_file_where_a_folder_is_needed_is_not_mistaken_for_one_that_exists(tmp_path, below):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError, match="could not be made") as caught:
        Location(str(tmp_path / "a")).child(*below).write_bytes(b"x", only_if_absent=True)
    assert not isinstance(caught.value, ObjectExistsError)


def test_writing_over_a_folder_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="could not be written"):
        Location(str(tmp_path)).write_bytes(b"x")


def test_a_folder_is_no_file_to_remove(tmp_path):
    put(Location(str(tmp_path)), "a/b.jpg")
    with pytest.raises(StorageError, match="could not be removed"):
        Location(str(tmp_path / "a")).delete()
    assert keys(Location(str(tmp_path))) == ["a/b.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(StorageError, match="closed could not be listed"):
        list(Location(str(tmp_path)).list())


def test_a_name_too_long_for_the_disk_is_one_of_our_errors(tmp_path):
    for use in (Location.read_bytes, Location.exists, lambda place: place.write_bytes(b"x")):
        with pytest.raises(SpermsegError, match="name too long"):
            use(Location(str(tmp_path / ("a" * 300))))


def test_storable_text_is_left_as_it_is():
    assert storable("Äpfel 精子.jpg") == "Äpfel 精子.jpg"
