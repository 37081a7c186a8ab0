"""`spermseg evaluate` on a model and dataset of known answers."""

import json

import numpy as np
import pytest
from untrained import write_untrained_model

from spermseg.cli.evaluate import Evaluate
from spermseg.errors import DatasetError
from spermseg.model.predict import Predictor
from spermseg.model.saved import load_model
from spermseg.model.unet import UNetConfig
from spermseg.storage.filesystem import Location
from spermseg.training.metrics import SCORES, confusion, pooled


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return write_untrained_model(path, UNetConfig(filters=(4,), bridge=4), seed=5, min_area=0)


@pytest.fixture(scope="module")
def evaluated(model, tiny_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    Evaluate(model=str(model), dataset=tiny_dataset.location.uri, split="train", out=str(out)).run()
    return out, json.loads((out / "metrics.json").read_text())


def test_the_scores_are_those_of_the_masks_counted_by_hand(evaluated, model, tiny_dataset):
    saved = load_model(Location(str(model)))
    predictor = Predictor(saved, saved.description.view)
    examples = tiny_dataset.examples("train")
    maps = predictor.predict(tiny_dataset.read_image(example) for example in examples)
    counts = [confusion(m >= 0.5, tiny_dataset.read_mask(e)) for m, e in zip(maps, examples, strict=True)]
    _, metrics = evaluated
    assert metrics["pooled"] == pytest.approx(pooled(counts).scores())
    for name in SCORES:
        values = [getattr(count, name) for count in counts]
        assert metrics["per_image"][name]["mean"] == pytest.approx(np.mean(values))
        assert metrics["per_image"][name]["median"] == pytest.approx(np.median(values))
        assert [image[name] for image in metrics["images"]] == pytest.approx(values)


def test_the_file_names_split_pictures_groups_and_the_rule_for_empty_masks(evaluated, tiny_dataset):
    _, metrics = evaluated
    assert (metrics["split"], metrics["n_images"]) == ("train", 8)
    assert {image["group"] for image in metrics["images"]} == {e.group for e in tiny_dataset.examples("train")}
    assert "every score is 1" in metrics["empty_mask_rule"]
    low, high = metrics["per_image"]["dice"]["ci95"]
    assert low <= metrics["per_image"]["dice"]["mean"] <= high


def test_scores_at_network_resolution_stand_beside(evaluated):
    _, metrics = evaluated
    assert set(metrics["network_resolution"]) == {"pooled", "per_image"}
    assert metrics["network_resolution"]["pooled"] != metrics["pooled"]


def test_the_table_has_the_columns_of_the_paper(evaluated):
    out, metrics = evaluated
    table = (out / "metrics.md").read_text()
    assert "| IoU | Dice | precision | recall | F1 |" in table
    assert f"| native | pooled over pixels | {metrics['pooled']['iou']:.3f} |" in table


def test_overlays_are_a_picture(evaluated):
    out, _ = evaluated
    assert (out / "overlays.png").read_bytes().startswith(b"\x89PNG")


def test_a_split_that_is_not_there_is_one_line_that_names_those_that_are(model, tiny_dataset, tmp_path):
    evaluate = Evaluate(model=str(model), dataset=tiny_dataset.location.uri, split="tests", out=str(tmp_path))
    with pytest.raises(DatasetError, match=r"'tests'.*train \(8\)"):
        evaluate.run()
