"""What the report reads again: the upload that was segmented, and no other of its name."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from support.broken_files import encoded, zipped
from support.dark_cells import draw

from spermseg.cli import report
from spermseg.errors import MicrographError, ObjectChangedError, RunError
from spermseg.storage.filesystem import Location

PIXELS = draw(1)[0]
PICTURE, RETAKEN = encoded(PIXELS, ".png"), encoded(draw(2)[0], ".png")


@pytest.fixture(params=[None, "patient/1.png"])
def upload(request, tmp_path):
    """A place, and the member of an archive there or None; and what puts a picture there."""
    place = Location(str(tmp_path / ("uploads.zip" if request.param else "1.png")))

    def put(picture):
        place.write_bytes(zipped((request.param, picture)) if request.param else picture)
        report._usable_members.cache_clear()

    put(PICTURE)
    return place.uri, request.param, put


def test_an_upload_is_read_again_where_it_lies(upload):
    uri, member, _ = upload
    pixels = report.upload_reader([Location(uri)])(uri, member, sha256(PICTURE).hexdigest())
    assert np.array_equal(pixels, PIXELS)


def test_another_picture_of_its_name_is_not_shown_for_it(upload):
    uri, member, put = upload
    put(RETAKEN)
    with pytest.raises(MicrographError, match="another picture has this name now"):
        report.upload_reader([Location(uri)])(uri, member, sha256(PICTURE).hexdigest())


def test_what_has_become_too_large_is_not_read(upload, monkeypatch):
    uri, member, _ = upload
    monkeypatch.setattr(report, "LARGEST_FILE", len(PICTURE) - 1)
    with pytest.raises(MicrographError, match=f"bytes; at most {len(PICTURE) - 1} are read"):
        report.upload_reader([Location(uri)])(uri, member, sha256(PICTURE).hexdigest())


def test_what_lies_in_no_input_or_behind_a_link_by_now_is_not_read(upload, tmp_path):
    uri, member, _ = upload
    digest = sha256(PICTURE).hexdigest()
    with pytest.raises(RunError, match="in none of the inputs that the runs name"):
        report.upload_reader([Location(str(tmp_path / "other"))])(uri, member, digest)
    place = Path(uri)
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    with pytest.raises(ObjectChangedError, match="changed since planned"):
        report.upload_reader([Location(str(tmp_path))])(uri, member, digest)
