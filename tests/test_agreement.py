"""What is measured is what a table holds: the night, the evaluation and the calibration interpret maps by one rule."""

from dataclasses import replace

import numpy as np
import pytest
from support.untrained import trained_looking

from spermseg.batch.pool import Workers
from spermseg.batch.run import Night, segment_night
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.cells.confidence import Confidence
from spermseg.cells.instances import CellConfig
from spermseg.cells.measure import decode_mask
from spermseg.dataset.dataset import open_dataset
from spermseg.dataset.prepare import PrepareConfig, prepare_dataset
from spermseg.dataset.split import SplitConfig
from spermseg.evaluation.evaluate import Evaluator
from spermseg.evaluation.pixel_metrics import confusion
from spermseg.evaluation.predictions import ModelPredictions
from spermseg.micrograph.tiling import Tiles, WholeFrame
from spermseg.model.predict import PredictConfig
from spermseg.model.saved import ModelDescription, decode_model, encode_model
from spermseg.model.unet import UNetConfig
from spermseg.storage.filesystem import Location
from spermseg.synthetic.clinic import ClinicConfig, write_clinic
from spermseg.synthetic.draw import DrawConfig
from spermseg.table.results import read_units
from spermseg.training.calibration import Calibrator
from spermseg.training.data.source import AnnotatedData

NETWORK = UNetConfig(filters=(4, 6), bridge=8, classes=("cell", "head"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Pictures in all formats that a clinic sends; the JPEGs can be decoded at a half, and one cannot."""
    folder = tmp_path_factory.mktemp("agreement")
    draw = DrawConfig(height=160, width=200, scale=0.5, cells=(1, 4))
    clinic = write_clinic(folder / "clinic", ClinicConfig(patients=4, fields=3, upload_fields=1, draw=draw))
    split = SplitConfig(fractions=(0.5, 0.5, 0), group_pattern="(patient-[0-9]+)")
    out = Location(str(folder / "dataset"))
    prepare_dataset(clinic.images, clinic.annotations, out, PrepareConfig(split=split))
    return open_dataset(out)


def model_of(view, *, require_head: bool) -> bytes:
    description = ModelDescription(
        network=NETWORK,
        view=view,
        threshold=0.55,
        min_area=40,
        require_head=require_head,
        confidence=Confidence(temperature=0.7, slope=0.9, offset=0.05),
        recipe="none",
        settings={},
        training_data_sha256="",
    )
    return encode_model(trained_looking(NETWORK, seed=4).state_dict(), description)


def table_of(dataset, model: bytes, out: Location) -> dict[str, dict]:
    """Segment the pictures of a dataset; return name -> row."""
    about = decode_model(model).description
    night = Night(
        source=dataset.location.child("images"),
        out=out,
        model=model,
        settings=SegmentSettings(view=about.view, cells=about.cells()),
        predict=PredictConfig(),
        workers=Workers(count=1),
    )
    segment_night(night, lambda _: None)
    rows = [row for table in read_units(out) for row in table.to_pylist()]
    return {row["uri"].rpartition("/images/")[2]: row for row in rows}


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("require_head", [False, True])
@pytest.mark.parametrize("view", [Tiles(scale=0.5, tile=64, halo=16), WholeFrame(size=64)])
def test_a_table_holds_the_very_masks_that_an_evaluation_scores(dataset, view, require_head, tmp_path):
    model = model_of(view, require_head=require_head)
    rows, saved = table_of(dataset, model, Location(str(tmp_path))), decode_model(model)
    evaluator = Evaluator.of(saved, ModelPredictions.of(saved), dataset)
    scored = [*evaluator.score("train"), *evaluator.score("val")]
    assert len(scored) == len(rows) == 12
    for one in scored:
        row = rows[one.example.image]
        mask = decode_mask(row["mask"], (one.example.height, one.example.width))
        assert 0 < mask.mean() < 1
        assert np.array_equal(evaluator.segment(one.example).predicted, mask)
        assert one.native == confusion(mask, dataset.read_mask(one.example))
        assert (np.float32(one.confidence), one.n_heads) == (row["confidence"], row["n_heads"])
        assert len(one.instances.found) == row["n_cells"]


@pytest.mark.parametrize("require_head", [False, True])
def test_a_calibration_expects_the_dice_that_an_evaluation_finds(dataset, require_head, tmp_path):
    saved = decode_model(model_of(Tiles(scale=0.5, tile=64, halo=16), require_head=require_head))
    about = saved.description
    cells = CellConfig(min_area=about.min_area, require_head=require_head)
    data = AnnotatedData(dataset=dataset)
    level = Confidence(slope=0)  # through so few pictures no line is drawn: the mean Dice is expected
    fitted = Calibrator(network=saved.network, view=about.view, data=data, cells=cells, before=level).calibrate(0.55)
    after = replace(saved, description=replace(about, confidence=fitted.confidence))
    scored = Evaluator.of(after, ModelPredictions.of(after), dataset).score("val")
    mean = np.mean([one.native.dice for one in scored])
    assert [one.confidence for one in scored] == pytest.approx([mean] * len(scored))
