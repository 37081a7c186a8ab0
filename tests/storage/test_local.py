"""Names of places, and what only folders of this machine can do: links, permissions, names that are no text."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.places import keys, put

from spermseg.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    SpermsegError,
    StorageError,
)
from spermseg.storage.filesystem import Location
from spermseg.storage.uris import storable

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


def test_links_that_go_round_in_circles_are_not_there(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    place = Location(str(tmp_path))
    put(place, "c.jpg")
    assert keys(place) == ["c.jpg"]
    with pytest.raises(ObjectMissingError, match="cycle of links"):
        place.child("a.jpg").read_bytes()


def test_folders_may_be_nested_deeper_than_calls(tmp_path):
    folders = [str(tmp_path) + "/d" * level for level in range(1, sys.getrecursionlimit() + 100)]
    for folder in folders:
        Path(folder).mkdir()
    Path(folders[-1], "a.jpg").write_bytes(b"x")
    (item,) = Location(str(tmp_path)).list()
    assert item.uri == folders[-1] + "/a.jpg"
    Path(folders[-1], "a.jpg").unlink()
    for folder in reversed(folders):  # pytest's own cleaning does call itself
        Path(folder).rmdir()


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
@pytest.mark.parametrize(
    ("asked", "umask", "file", "folder"),
    [
        (None, 0, 0o600, 0o700),
        (None, 0o022, 0o600, 0o700),
        ("group", 0, 0o640, 0o750),
        ("all", 0, 0o644, 0o755),
        ("all", 0o027, 0o640, 0o750),
        ("group", 0o077, 0o600, 0o700),
    ],
)
def test_what_is_written_is_its_owners_unless_asked_otherwise_and_never_more_than_the_umask_lets(
    tmp_path, monkeypatch, only_if_absent, asked, umask, file, folder
):
    monkeypatch.setenv("SPERMSEG_SHARED", asked or "")
    tmp_path.chmod(0o755)
    before = os.umask(umask)
    try:
        Location(str(tmp_path)).child("a", "b", "unit").write_bytes(b"x", only_if_absent=only_if_absent)
    finally:
        os.umask(before)
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in (tmp_path, *tmp_path.rglob("*"))}
    assert modes == {".": 0o755, "a": folder, "a/b": folder, "a/b/unit": file}


def test_sharing_that_there_is_not_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("SPERMSEG_SHARED", "yes")
    with pytest.raises(ConfigError, match="got SPERMSEG_SHARED='yes'; group or all is needed"):
        Location(str(tmp_path / "a")).write_bytes(b"x")


@pytest.mark.parametrize("only_if_absent", [False, True])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, only_if_absent):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="could not be written: no space left on its disk"):
        Location(str(tmp_path / "a")).write_bytes(b"x", only_if_absent=only_if_absent)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB with 16 KiB on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk of 64 KiB takes root")
    (disk / "unit").write_bytes(b"1" * 16384)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("only_if_absent", [False, True])
@pytest.mark.parametrize("name", ["unit", "new", "folder/new"])
def test_a_full_disk_is_said_to_be_full_and_keeps_what_was_there(tiny_disk, name, only_if_absent):
    place = Location(str(tiny_disk))
    with pytest.raises(StorageError, match=r"could not be written: no space left on its disk \([^\n]+\): make room"):
        place.child(name).write_bytes(b"2" * 60_000, only_if_absent=only_if_absent)
    assert [path for path in tiny_disk.rglob("*") if path.is_file()] == [tiny_disk / "unit"]
    assert place.child("unit").read_bytes() == b"1" * 16384
    place.child(name).write_bytes(b"3" * 16384, only_if_absent=name != "unit")
    assert place.child(name).read_bytes() == b"3" * 16384


def test_a_disk_without_room_for_a_folder_is_said_to_be_full(tiny_disk):
    subprocess.run(["mount", "-o", "remount,size=64k,nr_inodes=2", str(tiny_disk)], check=True)
    with pytest.raises(StorageError, match="could not be made: no space left on its disk"):
        Location(str(tiny_disk)).child("folder", "unit").write_bytes(b"")


def test_a_write_lasts_through_a_power_cut(tmp_path, monkeypatch):
    """On disk first what is in the file, then its name, and the name of each new folder on the way."""
    done: list[object] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(handle: int) -> None:
        done.append(Path(f"/proc/self/fd/{handle}").resolve())
        fsync(handle)

    def note_replace(path: Path, target: Path) -> Path:
        done.append("renamed")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    Location(str(tmp_path)).child("a", "b", "unit").write_bytes(b"x")
    *folders, data, renamed, last = done
    assert set(folders) == {tmp_path, tmp_path / "a"}
    assert (data.parent, renamed, last) == (tmp_path / "a" / "b", "renamed", tmp_path / "a" / "b")
    assert data.name.startswith(".partial-")
    done.clear()
    Location(str(tmp_path)).child("a", "b", "unit").delete()
    assert done == [tmp_path / "a" / "b"]


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


@pytest.fixture
def nobody() -> Iterator[None]:
    """Work as a user who may not read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that all may enter; nobody may read `closed.jpg` and `closed/`, all may read `open.jpg`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for name in ("closed.jpg", "open.jpg", "closed/a.jpg"):
            Location(folder).child(name).write_bytes(b"x")
        Path(folder, "open.jpg").chmod(0o644)
        Path(folder, "closed.jpg").chmod(0)
        Path(folder, "closed").chmod(0)
        yield Path(folder)
        Path(folder, "closed").chmod(0o755)


def test_a_folder_that_may_not_be_read_is_an_error(closed, nobody):
    with pytest.raises(StorageError, match="closed could not be listed") as caught:
        list(Location(str(closed)).list())
    assert not isinstance(caught.value, ObjectDeniedError)


def test_one_file_that_may_not_be_read_leaves_the_others(closed, nobody):
    place = Location(str(closed))
    for denied in (place.child("closed.jpg"), place.child("closed", "a.jpg")):
        with pytest.raises(ObjectDeniedError, match="may not be read by this user"):
            denied.read_bytes()
    assert place.child("open.jpg").read_bytes() == b"x"


def test_a_folder_that_may_not_be_written_to_concerns_no_single_object(closed, nobody):
    with pytest.raises(StorageError, match="could not be written") as caught:
        Location(str(closed)).child("new.jpg").write_bytes(b"x")
    assert not isinstance(caught.value, ObjectDeniedError)


def test_a_file_that_is_written_over_while_it_is_opened_is_not_taken_for_the_planned_one(tmp_path, monkeypatch):
    file = Location(str(tmp_path / "a.jpg"))
    file.write_bytes(b"first")
    etag = file.stat().etag
    opened = Path.open

    def written_over_first(path: Path, *how: str) -> object:
        monkeypatch.setattr(Path, "open", opened)
        file.write_bytes(b"other")
        return path.open(*how)

    monkeypatch.setattr(Path, "open", written_over_first)
    with pytest.raises(ObjectChangedError, match="changed since planned"):
        file.read_range(0, 5, etag=etag)


def test_a_name_too_long_for_the_disk_is_one_of_our_errors(tmp_path):
    for use in (Location.read_bytes, Location.exists, lambda place: place.write_bytes(b"x")):
        with pytest.raises(SpermsegError, match="name too long"):
            use(Location(str(tmp_path / ("a" * 300))))


def test_storable_text_is_left_as_it_is():
    assert storable("Äpfel 精子.jpg") == "Äpfel 精子.jpg"
