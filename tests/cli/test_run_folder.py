"""Whether a training may begin, or go on, in a folder, and what its settings say."""

import json

import pytest

from spermseg.cli.training_run.folder import check_run, keep_settings
from spermseg.errors import ConfigError
from spermseg.storage.filesystem import Location

SETTINGS = {"train": {"epochs": 10, "seed": 0}, "data": {"pictures": None}, "snapshots": [5]}


@pytest.fixture
def out(tmp_path):
    return Location(str(tmp_path / "run"))


def changed(*, epochs: int = 10, seed: int = 0, pictures: int | None = None, snapshots: tuple[int, ...] = (5,)) -> dict:
    return {"train": {"epochs": epochs, "seed": seed}, "data": {"pictures": pictures}, "snapshots": list(snapshots)}


def test_a_training_that_never_began_leaves_the_folder_to_any_other(out):
    keep_settings(out, SETTINGS, resume=False)
    check_run(out, resume=False)
    other = changed(seed=1)
    keep_settings(out, other, resume=False)
    assert json.loads(out.child("settings.json").read_bytes()) == other


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (SETTINGS, SETTINGS),
        (changed(epochs=20), changed(epochs=20)),
        (changed(epochs=7), changed(epochs=7)),
        (changed(epochs=20, snapshots=(5, 15)), changed(epochs=20, snapshots=(5, 15))),
        (changed(snapshots=(8,)), changed(snapshots=(5, 8))),
        (changed(snapshots=()), SETTINGS),
    ],
)
def test_a_training_goes_on_with_the_same_settings_and_with_epochs_of_which_none_is_undone(out, now, kept):
    keep_settings(out, SETTINGS, resume=False)
    out.child("history.csv").write_bytes(b"epoch,val_dice\n" + b"1,0.5\n" * 7)
    assert keep_settings(out, now, resume=True) == kept
    assert json.loads(out.child("settings.json").read_bytes()) == kept


def test_a_training_that_is_ended_early_forgets_the_snapshots_that_it_will_not_reach(out):
    keep_settings(out, changed(snapshots=(5, 9)), resume=False)
    assert keep_settings(out, changed(epochs=7), resume=True) == changed(epochs=7)


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (changed(seed=1), r"begun with other settings \(train\)"),
        (changed(pictures=20, seed=1), r"begun with other settings \(data, train\)"),
        (changed(epochs=6), "got --epochs 6; .* has finished 7: give at least as many"),
        (changed(snapshots=(4, 5)), "got --snapshots 4; .* has finished that epoch without a snapshot"),
        (changed(epochs=20, snapshots=(5, 7)), "got --snapshots 7; .* has finished that epoch without a snapshot"),
    ],
)
def test_a_training_does_not_go_on_as_another(out, now, problem):
    keep_settings(out, SETTINGS, resume=False)
    out.child("history.csv").write_bytes(b"epoch,val_dice\n" + b"1,0.5\n" * 7)
    with pytest.raises(ConfigError, match=problem):
        keep_settings(out, now, resume=True)
    assert json.loads(out.child("settings.json").read_bytes()) == SETTINGS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"train": {"epo',
        b"[]",
        b"{}",
        b'{"train": {"epochs": 3}}',
        b'{"train": {"epochs": 3}, "snapshots": null}',
    ],
)
def test_settings_that_cannot_be_read_are_one_line(out, content):
    out.child("settings.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"settings.json is damaged, or from an earlier version"):
        keep_settings(out, SETTINGS, resume=True)
