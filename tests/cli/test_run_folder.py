"""Whether a training may begin, or go on, in a folder, and what its settings say."""

import json

import pytest

from spermseg.cli.run_folder import check_run, keep_settings
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
    "now", [SETTINGS, changed(epochs=20), changed(epochs=20, snapshots=(5, 15)), changed(snapshots=())]
)
def test_a_training_goes_on_with_the_same_settings_and_with_more_epochs(out, now):
    keep_settings(out, SETTINGS, resume=False)
    keep_settings(out, now, resume=True)
    assert json.loads(out.child("settings.json").read_bytes()) == now


@pytest.mark.parametrize(
    ("now", "problem"),
    [
        (changed(seed=1), r"begun with other settings \(train\)"),
        (changed(pictures=20, seed=1), r"begun with other settings \(data, train\)"),
        (changed(epochs=9), "got --epochs 9; .* was begun with 10"),
        (changed(snapshots=(4, 5)), "got --snapshots 4, which .* was not to keep"),
        (changed(epochs=20, snapshots=(10,)), "got --snapshots 10, which .* was not to keep"),
    ],
)
def test_a_training_does_not_go_on_as_another(out, now, problem):
    keep_settings(out, SETTINGS, resume=False)
    with pytest.raises(ConfigError, match=problem):
        keep_settings(out, now, resume=True)
    assert json.loads(out.child("settings.json").read_bytes()) == SETTINGS


@pytest.mark.parametrize("content", [b"", b'{"train": {"epo', b"[]", b"{}", b'{"train": {"epochs": 3}}'])
def test_settings_that_cannot_be_read_are_one_line(out, content):
    out.child("settings.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"settings.json is damaged, or of an earlier version"):
        keep_settings(out, SETTINGS, resume=True)
