"""The library: what `import spermseg` gives."""

import subprocess
import sys

import numpy as np
import pytest
from support.dark_cells import darkness_model, draw, night_over, picture

import spermseg
from spermseg.batch.run import segment_night
from spermseg.cells.measure import decode_mask, encode_mask
from spermseg.errors import MicrographError, ModelFileError, ObjectMissingError, RunError, ShapeError
from spermseg.storage.filesystem import Location


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    file.write_bytes(darkness_model())
    return spermseg.load_model(file)


def test_a_picture_is_segmented_from_its_path_its_bytes_or_its_pixels(model, tmp_path):
    pixels, truth = draw(3)
    (tmp_path / "a.png").write_bytes(picture(3))
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), picture(3), pixels):
        found = model.segment(given, um_per_px=0.5)
        assert np.array_equal(found.mask, truth)
        assert found.probability.shape == truth.shape
        assert len(found.cells) == found.labels.max() == 3
        for number, cell in enumerate(found.cells, start=1):
            assert cell.area == np.count_nonzero(found.labels == number)
            assert cell.area_um2 == cell.area / 4
        assert found.to_pandas()["area"].tolist() == [cell.area for cell in found.cells]
    assert model.segment(draw(0)[0]).to_pandas().empty


@pytest.mark.usefixtures("without_ray")
def test_the_library_finds_what_the_table_holds(model, tmp_path):
    for number in range(3):
        (tmp_path / "uploads").mkdir(exist_ok=True)
        (tmp_path / "uploads" / f"{number}.jpg").write_bytes(picture(number + 2, ".jpg"))
    night = night_over(Location(str(tmp_path / "uploads")), Location(str(tmp_path / "out")), darkness_model())
    segment_night(night, lambda _: None)
    table = spermseg.read_table(tmp_path / "out")
    assert table.num_rows == 3
    for row in table.to_pylist():
        found = model.segment(row["uri"])
        assert row["model_sha256"] == model.sha256
        assert row["mask"] == encode_mask(found.mask)
        assert np.array_equal(decode_mask(row["mask"], found.mask.shape), found.mask)
        assert row["n_cells"] == len(found.cells)
        assert row["confidence"] == np.float32(found.confidence)
    assert spermseg.read_table(tmp_path / "out", columns=["uri"]).column_names == ["uri"]


def test_what_is_wrong_is_an_error_that_says_so(model, tmp_path):
    (tmp_path / "notes.jpg").write_text("dear colleague")
    with pytest.raises(MicrographError, match="but a text"):
        model.segment(tmp_path / "notes.jpg")
    with pytest.raises(ObjectMissingError):
        model.segment(tmp_path / "nowhere.jpg")
    for pixels in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(ShapeError, match=r"\(Y, X, 3\) uint8 RGB is needed"):
            model.segment(pixels)
    with pytest.raises(ModelFileError):
        spermseg.load_model(tmp_path / "notes.jpg")
    with pytest.raises(RunError, match="holds no run"):
        spermseg.read_table(tmp_path)
    with pytest.raises(AttributeError, match="has no attribute 'segmnt'"):
        spermseg.segmnt  # noqa: B018


def test_importing_the_library_waits_for_nothing_that_it_need_not():
    program = "import sys, spermseg; print(sorted({'torch', 'ray', 'cv2', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
    program = "import sys, spermseg; spermseg.load_model(); print('ray' in sys.modules, 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False False\n"


def test_python_m_spermseg_is_the_command():
    done = subprocess.run([sys.executable, "-m", "spermseg", "--version"], capture_output=True, text=True)
    assert done.stdout == f"{spermseg.__version__}\n"
