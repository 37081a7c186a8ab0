"""Folders that strangers write to: all that lies there is shown, nothing is read through a link, nothing ends it."""

import errno
import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spermseg.errors import ObjectChangedError, ObjectDeniedError, ObjectMissingError, SpermsegError, StorageError
from spermseg.storage import patience
from spermseg.storage.filesystem import NOT_TEXT, Location
from spermseg.storage.local import uploads as local_uploads
from spermseg.storage.local.uploads import (
    LEADS_IN_CIRCLES,
    LEADS_NOWHERE,
    LEADS_OUT,
    LINKED,
    NO_FILE,
    REMOVED,
    UNREAD_FOLDERS,
)

DENIED_FOLDER = UNREAD_FOLDERS[errno.EACCES]
GUIDE = Path(__file__).parents[2] / "docs/operations.md"


@pytest.fixture
def uploads(tmp_path) -> Path:
    folder = tmp_path / "uploads"
    (folder / "ada").mkdir(parents=True)
    (folder / "ada" / "1.jpg").write_bytes(b"ada")
    (tmp_path / "outside" / "eve").mkdir(parents=True)
    (tmp_path / "outside" / "eve" / "secret.jpg").write_bytes(b"secret")
    return folder


def shown(folder: Path) -> dict[str, str | None]:
    """Return key -> why it is no upload that can be read."""
    found = {item.key: item.reason or item.passed_over for item in Location(str(folder)).list_uploads()}
    assert list(found) == sorted(found)
    return found


def test_a_link_within_the_uploads_adds_nothing_to_what_is_listed_under_its_own_path(uploads):
    (uploads / "ada" / "again.jpg").symlink_to("1.jpg")
    (uploads / "bob").symlink_to("ada")
    (uploads / "loop").symlink_to(".")
    (uploads / "absolute.jpg").symlink_to(uploads / "ada" / "1.jpg")
    linked = dict.fromkeys(("ada/again.jpg", "bob", "loop", "absolute.jpg"), LINKED)
    assert shown(uploads) == {"ada/1.jpg": None, **linked}


@pytest.mark.parametrize("target", ["../outside/eve", "..", "/", "../outside/eve/secret.jpg", "/dev/null"])
def test_a_link_that_leads_out_is_shown_and_not_followed(uploads, target):
    (uploads / "eve").symlink_to(target)
    name = "eve/" if (uploads / target).is_dir() else "eve"
    assert shown(uploads) == {"ada/1.jpg": None, name: LEADS_OUT}


def test_links_that_lead_nowhere_or_round_in_circles_are_shown(uploads):
    (uploads / "gone.jpg").symlink_to("no such file")
    (uploads / "a").symlink_to("b")
    (uploads / "b").symlink_to("a")
    assert shown(uploads) == {
        "a": LEADS_IN_CIRCLES,
        "ada/1.jpg": None,
        "b": LEADS_IN_CIRCLES,
        "gone.jpg": LEADS_NOWHERE,
    }


def test_pipes_and_sockets_are_shown_and_not_opened(uploads, monkeypatch):
    os.mkfifo(uploads / "pipe.jpg")
    monkeypatch.chdir(uploads)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        assert shown(uploads) == {"ada/1.jpg": None, "pipe.jpg": NO_FILE, "socket.jpg": NO_FILE}


def test_the_input_itself_may_be_a_link_and_lie_behind_one(uploads, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "link" / "tonight").symlink_to("uploads")
    (uploads / "again.jpg").symlink_to("ada/1.jpg")
    source = Location(str(tmp_path / "link" / "tonight"))
    assert {item.key: item.passed_over for item in source.list_uploads()} == {"ada/1.jpg": None, "again.jpg": LINKED}
    assert source.upload(source.child("ada", "1.jpg").uri).read_bytes() == b"ada"


def test_one_file_is_an_input_too(uploads):
    source = Location(str(uploads / "ada" / "1.jpg"))
    (item,) = source.list_uploads()
    assert (item.key, source.upload(item.uri).read_bytes()) == ("1.jpg", b"ada")
    assert list(Location(str(uploads / "nothing")).list_uploads()) == []


def put_a_link_in_place_of_the_file(uploads: Path) -> None:
    (uploads / "ada" / "1.jpg").unlink()
    (uploads / "ada" / "1.jpg").symlink_to("../../outside/eve/secret.jpg")


def put_a_link_in_place_of_the_folder(uploads: Path) -> None:
    shutil.rmtree(uploads / "ada")
    (uploads.parent / "outside" / "eve" / "1.jpg").write_bytes(b"secret")
    (uploads / "ada").symlink_to("../outside/eve")


@pytest.mark.parametrize("swap", [put_a_link_in_place_of_the_file, put_a_link_in_place_of_the_folder])
@pytest.mark.parametrize("read", [Location.read_bytes, Location.stat, lambda place: place.open().read()])
def test_a_link_that_is_put_in_the_place_of_an_upload_is_not_followed(uploads, swap, read):
    (item,) = Location(str(uploads)).list_uploads()
    place = Location(str(uploads)).upload(item.uri)
    assert read(place)
    swap(uploads)
    with pytest.raises(ObjectChangedError, match="changed since planned"):
        read(place)


def test_a_folder_that_becomes_a_link_while_it_is_listed_is_not_followed(uploads, monkeypatch):
    (uploads / "bob").mkdir()
    opened = local_uploads._open

    def swapped(root: str, parts: list[str], path: str, how: int) -> int:
        if parts == ["ada"]:
            put_a_link_in_place_of_the_folder(uploads)
        return opened(root, parts, path, how)

    monkeypatch.setattr(local_uploads, "_open", swapped)
    assert shown(uploads) == {"ada/": REMOVED}


def test_a_pipe_in_the_place_of_an_upload_holds_nobody_up(uploads):
    place = Location(str(uploads)).upload(f"{uploads}/ada/1.jpg")
    (uploads / "ada" / "1.jpg").unlink()
    os.mkfifo(uploads / "ada" / "1.jpg")
    with pytest.raises(ObjectMissingError, match="is not a file"):
        place.read_bytes()


@pytest.mark.parametrize(
    "uri", ["{out}/eve/secret.jpg", "/etc/passwd", "{up}/../outside/eve/secret.jpg", "{up}x/1.jpg"]
)
def test_what_does_not_lie_in_the_input_is_no_upload(uploads, uri):
    shutil.copytree(uploads / "ada", f"{uploads}x")
    uri = uri.format(out=uploads.parent / "outside", up=uploads)
    with pytest.raises((ObjectDeniedError, ObjectMissingError), match="does not lie"):
        Location(str(uploads)).upload(uri).read_bytes()


@pytest.fixture
def nobody() -> Iterator[Callable[[], None]]:
    """Become a user who may not read everything, when called."""
    yield lambda: os.seteuid(65534) if not os.geteuid() else None
    os.seteuid(os.getuid())


@pytest.fixture
def closed() -> Iterator[Path]:
    """Uploads in which the folder `bob` may be entered by nobody."""
    folder = Path("/tmp") / f"spermseg-closed-{os.getpid()}"  # one that others may enter
    for name in ("ada", "bob", "eve"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.jpg").write_bytes(b"x")
    folder.chmod(0o755)
    (folder / "bob").chmod(0)
    yield folder
    (folder / "bob").chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_read_is_shown_and_the_listing_goes_on(closed, nobody):
    nobody()
    assert shown(closed) == {"ada/1.jpg": None, "bob/": DENIED_FOLDER, "eve/1.jpg": None}


def test_an_input_that_may_not_be_read_is_an_error(closed, nobody):
    nobody()
    with pytest.raises(StorageError, match="bob could not be listed"):
        list(Location(str(closed / "bob")).list_uploads())


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ENAMETOOLONG, errno.EPERM])
def test_a_folder_that_goes_or_cannot_be_named_is_shown(uploads, monkeypatch, error):
    fail_to_list(monkeypatch, error)
    (uploads / "bob.jpg").write_bytes(b"bob")
    assert shown(uploads) == {"ada/": UNREAD_FOLDERS[error], "bob.jpg": None}


def test_a_disk_that_fails_while_it_is_listed_is_no_fault_of_an_upload(uploads, monkeypatch):
    patience.be_patient(patience.Patience(total_s=0.1))
    fail_to_list(monkeypatch, errno.EIO)
    with pytest.raises(StorageError, match="could not be listed: Input/output error"):
        shown(uploads)


@pytest.mark.parametrize("call", ["stat", "scandir", "realpath", "open"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EHOSTDOWN])
def test_a_network_folder_that_is_away_for_a_moment_is_listed_as_if_it_had_not_been(uploads, monkeypatch, call, number):
    patience.be_patient(patience.Patience(longest_wait_s=0.01))
    (uploads / "bob.jpg").write_bytes(b"bob")
    (uploads / "link.jpg").symlink_to(uploads / "bob.jpg")
    (uploads / "out.jpg").symlink_to("/etc/hostname")
    expected = shown(uploads)
    module = os.path if call == "realpath" else os
    function = getattr(module, call)
    for first in range(4):  # whichever call is the first to fail
        numbers, failed = itertools.count(), []

        def fail_for_a_moment(*arguments, numbers=numbers, failed=failed, first=first, **options):
            if isinstance(arguments[0], bytes | int) and first <= next(numbers) < first + 4:
                failed.append(arguments)
                raise OSError(number, os.strerror(number))
            return function(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, call, fail_for_a_moment)
            assert shown(uploads) == expected
        assert failed or first > 1
    assert expected["out.jpg"] == LEADS_OUT


def test_a_folder_that_is_away_for_a_moment_still_holds_what_lies_in_it(tmp_path, monkeypatch):
    patience.be_patient(patience.Patience(longest_wait_s=0.01))
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    look, calls = os.path.realpath, itertools.count()

    def realpath(*arguments, **options):
        if next(calls) < 4:
            if options.get("strict"):
                raise OSError(errno.EIO, "gone")
            return arguments[0]  # what Python makes of it
        return look(*arguments, **options)

    monkeypatch.setattr(os.path, "realpath", realpath)
    assert Location(str(tmp_path / "data")).contains(Location(str(tmp_path / "link" / "out")))


def fail_to_list(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    opened = local_uploads._open

    def fail(root: str, parts: list[str], path: str, how: int) -> int:
        if parts == ["ada"]:
            raise OSError(number, os.strerror(number))
        return opened(root, parts, path, how)

    monkeypatch.setattr(local_uploads, "_open", fail)


def test_folders_nested_beyond_what_the_system_can_name_are_shown_as_one(uploads):
    names = ["d" * 250] * 20
    before = Path.cwd()
    os.chdir(uploads / "ada")
    try:
        for name in names:
            Path(name).mkdir()
            os.chdir(name)
        Path("deep.jpg").write_bytes(b"x")
        listed = shown(uploads)
    finally:
        os.chdir(before)
        subprocess.run(["rm", "-r", str(uploads / "ada" / names[0])], check=True)
    assert listed.pop("ada/1.jpg") is None
    ((key, reason),) = listed.items()
    assert reason == UNREAD_FOLDERS[errno.ENAMETOOLONG]
    assert key.startswith("ada/ddd")
    assert key.endswith("d/")


def test_a_file_that_goes_while_its_folder_is_listed_is_shown(uploads):
    class Gone:
        name = "gone.jpg"

        def stat(self, *, follow_symlinks: bool) -> None:
            raise FileNotFoundError(errno.ENOENT, "gone")

    assert local_uploads._no_upload(local_uploads._entry(str(uploads), Gone()), b"/").reason == REMOVED  # type: ignore[arg-type]


def test_a_name_that_is_no_text_is_shown_with_escapes(uploads):
    Path(os.fsdecode(os.fsencode(uploads) + b"/caf\xe9.jpg")).write_bytes(b"x")
    assert shown(uploads) == {"ada/1.jpg": None, "caf\\xe9.jpg": NOT_TEXT}


def test_in_a_locale_that_cannot_encode_a_name_it_is_listed_and_read_as_in_any_other(uploads):
    (uploads / "Zoë").mkdir()
    (uploads / "Zoë" / "精子.jpg").write_bytes(b"x")
    program = (
        "import sys; from spermseg.storage.filesystem import Location; source = Location(sys.argv[1]);"
        "print([(ascii(one.key), one.reason, source.upload(one.uri).read_bytes()) for one in source.list_uploads()])"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(uploads)], env=ascii_only, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([("'Zo\\xeb/\\u7cbe\\u5b50.jpg'", None, b"x"), ("'ada/1.jpg'", None, b"ada")])


def test_errors_are_ours(uploads):
    with pytest.raises(SpermsegError):
        Location(str(uploads)).upload(f"{uploads}/{'x' * 300}.jpg").read_bytes()


@pytest.mark.parametrize(
    "reason", [LEADS_OUT, LEADS_NOWHERE, LEADS_IN_CIRCLES, NO_FILE, NOT_TEXT, *UNREAD_FOLDERS.values()]
)
def test_a_reason_is_short_and_in_the_guide(reason):
    assert len(reason) <= 160
    assert f"`{reason}`" in GUIDE.read_text()
