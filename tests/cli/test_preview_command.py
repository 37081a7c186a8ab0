"""`spermseg preview`: outlines of a few pictures, without Ray."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from support.dark_cells import darkness_model, draw, picture

from spermseg.cli.preview import Preview
from spermseg.errors import ConfigError, ObjectMissingError, TooManyRejectedError


@pytest.fixture
def model(tmp_path) -> str:
    file = tmp_path / "model.safetensors"
    file.write_bytes(darkness_model())
    return str(file)


@pytest.fixture
def slides(tmp_path):
    """A folder of pictures, two of one name, one broken, and a file that is none."""
    folder = tmp_path / "slides"
    (folder / "deep").mkdir(parents=True)
    for name, cells in {"a.png": 3, "deep/a.png": 1, "a.jpg": 2}.items():
        (folder / name).write_bytes(picture(cells, name[-4:]))
    (folder / "cut.png").write_bytes(picture(4)[:300])
    (folder / "notes.txt").write_text("dear colleague")
    return folder


def test_each_picture_of_a_folder_is_outlined_and_counted(slides, model, tmp_path, capsys):
    assert Preview(pictures=(str(slides),), out=str(tmp_path / "out"), model=model, um_per_px=0.5).run() == 0
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == {"a.jpg", "a.png.jpg", "deep/a.png.jpg"}
    said = capsys.readouterr().out
    assert f"{slides}/a.png: outlines: 3, " in said
    assert " um2; expected Dice: 1.00" in said
    assert f"{slides}/cut.png: rejected: truncated or corrupt PNG" in said
    assert f"3 of 4 pictures: {tmp_path / 'out'}" in said
    shown = cv2.imread(str(tmp_path / "out" / "a.png.jpg"))
    plain = draw(3)[0][..., ::-1]
    assert shown.shape == plain.shape
    blue, _, red = np.moveaxis(shown.astype(int), -1, 0)
    assert (red - blue > 100).any()  # an outline, in orange


def test_pictures_of_one_name_do_not_write_over_each_other(slides, model, tmp_path):
    given = (str(slides / "a.png"), str(slides / "deep" / "a.png"), str(slides / "a.png"))
    Preview(pictures=given, out=str(tmp_path / "out"), model=model).run()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png.jpg", "a.png-2.jpg"}


def test_no_picture_is_written_over(slides, model):
    with pytest.raises(
        ConfigError, match=r"the overlay of .*a\.jpg would replace the picture itself; give another --out"
    ):
        Preview(pictures=(str(slides),), out=str(slides), model=model).run()
    assert (slides / "a.jpg").read_bytes() == picture(2, ".jpg")


def test_where_nothing_can_be_read_it_says_so(slides, model, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(TooManyRejectedError, match="none of 1 pictures could be read"):
        Preview(pictures=(str(slides / "notes.txt"),), out=out, model=model).run()
    with pytest.raises(ObjectMissingError):
        Preview(pictures=(str(slides / "gone.png"),), out=out, model=model).run()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="got no picture in"):
        Preview(pictures=(str(tmp_path / "empty"),), out=out, model=model).run()


def test_ray_is_not_imported(slides, model, tmp_path):
    program = "import sys; from spermseg.cli.preview import Preview; from pathlib import Path\n"
    program += f"Preview(pictures=({str(slides)!r},), out={str(tmp_path / 'out')!r}, model={model!r}).run()\n"
    program += "print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
