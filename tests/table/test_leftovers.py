import os
from pathlib import Path

import pytest
from support.damaged_tables import first_run, unit

from spermseg.batch.run import segment_night
from spermseg.errors import StorageRefusedError
from spermseg.storage.local import backend as local
from spermseg.table.lease import hold_lease
from spermseg.table.leftovers import remove_leftovers
from spermseg.table.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("without_ray")

DAY_S = 24 * 3600
NAME = ".partial-0011223344556677"


def leave(path: Path, *, hours: float) -> Path:
    """Leave a part of a file that was written so many hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3600 * hours))
    return path


def test_what_writers_left_a_day_ago_is_removed_from_all_of_a_table_and_nothing_else(night):
    out = Path(night.out.path)
    run, units = Path(RunFolder(night.out, first_run(night.out)).notes.path), Path(unit(night.out).path).parent
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    left = [leave(folder / NAME, hours=25) for folder in (out, run, units, out / "damaged/a")]
    others = [
        *(leave(folder / NAME.replace("7", "8"), hours=23) for folder in (out, run, units)),
        *(leave(units / name, hours=1000) for name in (".partial-notes", NAME + ".txt", "partial-0011223344556677")),
        leave(out / "mine" / NAME, hours=1000),
        leave(units / NAME.replace("7", "9") / "a.txt", hours=1000),
    ]
    (units / NAME.replace("7", "a")).symlink_to(others[0])
    assert segment_night(night, lambda _: None) == []
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in others)
    assert {path: path.read_bytes() for path in kept} == kept


def test_the_age_is_told_by_the_file_server_and_not_by_a_clock_of_this_machine(night):
    part = leave(Path(night.out.path) / NAME, hours=0)
    with hold_lease(night.out) as lease:
        there = Path(lease.place.path)
        os.utime(there, (there.stat().st_atime, there.stat().st_mtime + DAY_S + 60))
        remove_leftovers(night.out, lease)
    assert not part.exists()


def test_what_cannot_be_removed_is_a_warning(night, monkeypatch, caplog):
    leave(Path(night.out.path) / "results" / NAME, hours=25)

    def refused(path):
        raise StorageRefusedError(f"{path} could not be removed: Operation not permitted")

    monkeypatch.setattr(local, "_delete", refused)
    with hold_lease(night.out) as lease:
        remove_leftovers(night.out, lease)
        monkeypatch.undo()
    assert "the partial files of killed writers could not be removed from the table: " in caplog.text


def test_a_table_on_s3_has_none(moto_server):
    bucket = moto_server.new_bucket()
    bucket.child("results", NAME).write_bytes(b"somebody's")
    with hold_lease(bucket) as lease:
        remove_leftovers(bucket, lease)
    assert bucket.child("results", NAME).exists()
