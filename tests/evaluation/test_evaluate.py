"""`spermseg evaluate` on a model and dataset of known answers."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.untrained import write_untrained_model

from spermseg.cells.heads import headless
from spermseg.cells.instances import CellConfig, label_cells
from spermseg.cli.evaluate import Evaluate
from spermseg.dataset.dataset import open_dataset
from spermseg.dataset.prepare import PrepareConfig, prepare_dataset
from spermseg.dataset.split import SplitConfig
from spermseg.errors import ConfigError, DatasetError
from spermseg.evaluation.evaluate import Evaluator, unannotated_at_border
from spermseg.evaluation.object_metrics import match_centres
from spermseg.evaluation.pixel_metrics import SCORES, confusion, pooled
from spermseg.evaluation.predictions import ModelPredictions, Prediction
from spermseg.evaluation.shape_metrics import centreline_dice, surface_dice
from spermseg.micrograph.tiling import Tiles, to_native
from spermseg.model.predict import PredictConfig, Predictor
from spermseg.model.saved import load_model
from spermseg.model.unet_config import UNetConfig
from spermseg.storage.filesystem import Location
from spermseg.synthetic.clinic import ClinicConfig, write_clinic
from spermseg.synthetic.draw import DrawConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return write_untrained_model(path, UNetConfig(filters=(4,), bridge=4), seed=5, min_area=0)


@pytest.fixture(scope="module")
def evaluated(model, tiny_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    Evaluate(model=str(model), dataset=tiny_dataset.location.uri, split="train", out=str(out)).run()
    return out, json.loads((out / "metrics.json").read_text())


def native_maps(saved, dataset) -> list[np.ndarray]:
    """Return the maps (Y, X) of the whole cell of all pictures to train on."""
    examples, view = dataset.examples("train"), saved.description.view
    found = Predictor(saved, view).predict_working(dataset.read_working(example, view) for example in examples)
    return [to_native(one, (of.height, of.width)) for one, of in zip(found, examples, strict=True)]


def test_the_scores_are_those_of_the_masks_counted_by_hand(evaluated, model, tiny_dataset):
    saved = load_model(Location(str(model)))
    examples = tiny_dataset.examples("train")
    maps = native_maps(saved, tiny_dataset)
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
    assert "| IoU | Dice | precision | recall | F1 | clDice | surface Dice |" in table
    assert f"| cell | native | pooled over pixels | {metrics['pooled']['iou']:.3f} |" in table


def test_overlays_and_charts_are_pictures(evaluated):
    out, _ = evaluated
    for name in ("overlays.png", "confidence.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("asked", [{"flips": True}, {"threshold": 0.5}, {"require_head": "no"}])
def test_what_only_a_model_can_do_is_asked_of_nothing_else(asked, tiny_dataset, tmp_path):
    evaluate = Evaluate(baseline="otsu", dataset=tiny_dataset.location.uri, split="train", out=str(tmp_path), **asked)
    with pytest.raises(ConfigError, match="--flips, --threshold and --require-head are for a model"):
        evaluate.run()


def test_a_model_that_wants_heads_drops_the_rest_from_every_part_and_is_judged_before_that(tiny_dataset, tmp_path):
    config = UNetConfig(filters=(4,), bridge=4, classes=("cell", "head", "tail"))
    saved = load_model(Location(str(write_untrained_model(tmp_path / "model", config, seed=3, min_area=0))))
    example = tiny_dataset.examples("train")[0]
    pixels = tiny_dataset.read_working(example, saved.description.view)
    maps = Predictor(saved, saved.description.view, parts=True).predict_parts(pixels)
    threshold = float(np.quantile(maps["cell"], 0.9))
    saved.network.head.bias.data[1] -= 10  # no heads
    maps = Predictor(saved, saved.description.view, parts=True).predict_parts(pixels)
    plain, require_head = (
        ModelPredictions.of(
            replace(saved, description=replace(saved.description, require_head=require_head)), threshold=threshold
        )
        for require_head in (False, True)
    )
    dropped = headless(maps["cell"], maps["head"], threshold, saved.description.view.scale)
    assert dropped[maps["cell"] >= threshold].all()
    found = require_head.predict(example, tiny_dataset)
    assert np.array_equal(found.working, (maps["cell"] >= threshold) & ~dropped)
    for part, mask in found.masks.items():
        kept = to_native(np.where(dropped, np.float32(0), maps[part]), (example.height, example.width)) >= threshold
        assert np.array_equal(mask, kept), part
    assert found.confidence == plain.predict(example, tiny_dataset).confidence


def test_what_the_model_expected_stands_beside_what_came(evaluated, model, tiny_dataset):
    out, metrics = evaluated
    saved = load_model(Location(str(model)))
    predictor = Predictor(saved, saved.description.view)
    view, examples = saved.description.view, tiny_dataset.examples("train")
    maps = predictor.predict_working(tiny_dataset.read_working(example, view) for example in examples)
    expected = [saved.description.confidence.judge(one, 0.5) for one in maps]
    said = [image["confidence"] for image in metrics["images"]]
    assert said == pytest.approx(expected)
    distance = np.abs(np.subtract(said, [image["dice"] for image in metrics["images"]])).mean()
    assert metrics["confidence"]["mean_error"] == pytest.approx(distance)
    assert [coverage for coverage, _ in metrics["confidence"]["risk"]] == [n / 8 for n in range(1, 9)]
    assert f"Confidence: {distance:.3f} off the Dice of a picture" in (out / "metrics.md").read_text()


@pytest.mark.parametrize("threshold", [0.0, 1.0, 50.0])
def test_a_threshold_that_is_no_probability_is_refused(model, tiny_dataset, tmp_path, threshold):
    asked = Evaluate(model=str(model), dataset=tiny_dataset.location.uri, out=str(tmp_path), threshold=threshold)
    with pytest.raises(ConfigError, match=f"got threshold {threshold:g}; more than 0 and less than 1 is needed"):
        asked.run()


def test_a_split_that_is_not_there_is_one_line_that_names_those_that_are(model, tiny_dataset, tmp_path):
    evaluate = Evaluate(model=str(model), dataset=tiny_dataset.location.uri, split="tests", out=str(tmp_path))
    with pytest.raises(DatasetError, match=r"'tests'.*train \(8\)"):
        evaluate.run()


@pytest.fixture(scope="module")
def raters(tmp_path_factory):
    """Two datasets of the same pictures: the second rater has drawn other cells, whatever was there."""
    folder = tmp_path_factory.mktemp("raters")
    draw = DrawConfig(height=160, width=200, scale=0.5, cells=(2, 3), inner_parts=True)
    clinic = write_clinic(folder / "clinic", ClinicConfig(patients=3, fields=1, upload_fields=1, draw=draw))
    labels = {"Nucleus": "nucleus", "Acrosome": "acrosome", "Tail": "tail"}
    config = PrepareConfig(
        split=SplitConfig(fractions=(1.0, 0.0, 0.0)),
        labels=labels | {"Head": "ignore", "Midpiece": "ignore", "Vacuole": "ignore"},
    )
    first, second = Location(str(folder / "first")), Location(str(folder / "second"))
    prepare_dataset(clinic.images, clinic.annotations, first, config)
    for path in clinic.annotations.rglob("*.json"):
        drawn = json.loads(path.read_text())
        drawn["shapes"] = [one for one in drawn["shapes"] if one["group_id"] != 0]  # he has missed a cell
        path.write_text(json.dumps(drawn))
    prepare_dataset(clinic.images, clinic.annotations, second, config)
    return open_dataset(first), open_dataset(second)


def test_a_rater_is_scored_part_by_part_and_by_the_heads_that_he_has_found(raters, tmp_path):
    first, second = raters
    Evaluate(
        rater=second.location.uri, dataset=first.location.uri, split="train", out=str(tmp_path), tolerance=1.0
    ).run()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["parts"].keys() == {"acrosome", "head", "nucleus", "tail"}
    pairs = list(zip(first.examples("train"), second.examples("train"), strict=True))
    for part in ("cell", "head", "tail"):
        masks = [(second.read_mask(his, part), first.read_mask(mine, part)) for mine, his in pairs]
        per_image = metrics["per_image"] if part == "cell" else metrics["parts"][part]["per_image"]
        assert per_image["dice"]["mean"] == pytest.approx(np.mean([confusion(*pair).dice for pair in masks]))
        assert per_image["cldice"]["mean"] == pytest.approx(np.mean([centreline_dice(*pair) for pair in masks]))
        assert per_image["surface_dice"]["mean"] == pytest.approx(np.mean([surface_dice(*pair, 1.0) for pair in masks]))
    heads = [
        (label_cells(second.read_mask(his, "head")), label_cells(first.read_mask(mine, "head"))) for mine, his in pairs
    ]
    found = [match_centres(*pair) for pair in heads]
    assert metrics["heads"]["recall"] == pytest.approx(sum(f.tp for f in found) / sum(f.tp + f.fn for f in found))
    assert metrics["heads"]["recall"] < 1
    assert metrics["heads"]["precision"] == 1
    off = [abs(his.max() - mine.max()) for his, mine in heads]
    assert np.mean(off) > 0
    assert metrics["count_error"]["heads"] == pytest.approx(np.mean(off))
    outlines = [label_cells(second.read_mask(his)).max() for _, his in pairs]
    off = [abs(found - mine.max()) for found, (_, mine) in zip(outlines, heads, strict=True)]
    assert metrics["count_error"]["outlines"] == pytest.approx(np.mean(off))
    assert 0 < metrics["average_precision"]["mean"] <= metrics["average_precision"]["at_50"] < 1
    assert "network_resolution" not in metrics
    table = (tmp_path / "metrics.md").read_text()
    assert "| tail | native | mean of images |" in table
    assert "Heads found: precision 1.000, recall" in table
    assert "Counting heads, a picture is off by" in table
    assert "Surface Dice within 1 px." in table


def test_a_rater_against_himself_is_perfect(raters, tmp_path):
    first, _ = raters
    Evaluate(rater=first.location.uri, dataset=first.location.uri, split="train", out=str(tmp_path)).run()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {one["mean"] for one in metrics["per_image"].values()} == {1.0}
    assert metrics["average_precision"] == {"mean": 1.0, "at_50": 1.0}


def test_a_rater_who_has_not_drawn_on_a_picture_is_refused(raters, tiny_dataset, tmp_path):
    evaluate = Evaluate(rater=raters[0].location.uri, dataset=tiny_dataset.location.uri, out=str(tmp_path))
    with pytest.raises(DatasetError, match="has no annotation of 'patient-"):
        evaluate.run()


def test_a_baseline_is_scored_without_a_model(tiny_dataset, tmp_path):
    Evaluate(baseline="medina", dataset=tiny_dataset.location.uri, split="train", out=str(tmp_path)).run()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["baseline"] == "medina"
    assert 0.2 < metrics["pooled"]["dice"] < 1
    assert metrics["parts"] == {}


def test_one_thing_at_a_time_is_held_against_a_dataset(model, tiny_dataset, tmp_path):
    with pytest.raises(ConfigError, match="give one of --model FILE, --baseline NAME and --rater DATASET"):
        Evaluate(dataset=tiny_dataset.location.uri, out=str(tmp_path), model=str(model), baseline="otsu").run()


def test_a_network_of_several_parts_is_scored_on_each_and_its_cell_is_their_union(tiny_dataset, tmp_path):
    config = UNetConfig(filters=(4,), bridge=4, classes=("tail", "head"))
    path = write_untrained_model(tmp_path / "parts.safetensors", config, seed=5, min_area=0)
    Evaluate(model=str(path), dataset=tiny_dataset.location.uri, split="train", out=str(tmp_path)).run()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["parts"].keys() == {"head", "tail"}
    union = native_maps(load_model(Location(str(path))), tiny_dataset)
    examples = tiny_dataset.examples("train")
    counts = [confusion(m >= 0.5, tiny_dataset.read_mask(e)) for m, e in zip(union, examples, strict=True)]
    assert metrics["pooled"] == pytest.approx(pooled(counts).scores())


def test_with_flips_a_flipped_picture_gets_the_flipped_map(model):
    saved = load_model(Location(str(model)))
    source = ModelPredictions(
        predictor=Predictor(saved, saved.description.view, PredictConfig(engine="torch"), parts=True),
        cells=CellConfig(),
        flips=True,
    )
    size = saved.description.view.working_shape((64, 64))
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    example = SimpleNamespace(height=64, width=64)

    def read(source, pixels):
        return source.predict(example, SimpleNamespace(read_working=lambda *_: pixels)).probability

    found, turned = read(source, pixels), read(source, np.ascontiguousarray(pixels[::-1, ::-1]))
    assert np.allclose(turned[::-1, ::-1], found, atol=1e-5)
    assert not np.allclose(read(replace(source, flips=False), pixels), found, atol=1e-3)


@pytest.mark.parametrize("require_head", ["yes", "no"])
def test_that_cells_without_a_head_were_dropped_is_said(require_head, tiny_dataset, tmp_path):
    config = UNetConfig(filters=(4,), bridge=4, classes=("cell", "head"))
    model = write_untrained_model(tmp_path / "model", config, seed=3, min_area=0)
    Evaluate(
        model=str(model), dataset=tiny_dataset.location.uri, split="train", out=str(tmp_path), require_head=require_head
    ).run()
    dropped = require_head == "yes"
    assert json.loads((tmp_path / "metrics.json").read_text())["require_head"] is dropped
    assert ("connected to no head were dropped" in (tmp_path / "metrics.md").read_text()) is dropped


def test_heads_that_a_model_does_not_know_cannot_be_asked_for(model, tiny_dataset, tmp_path):
    asked = Evaluate(model=str(model), dataset=tiny_dataset.location.uri, out=str(tmp_path), require_head="yes")
    with pytest.raises(ConfigError, match="dropping components without a head needs the class head"):
        asked.run()


def test_flips_are_said_in_the_metrics(model, tiny_dataset, tmp_path):
    Evaluate(model=str(model), dataset=tiny_dataset.location.uri, out=str(tmp_path), flips=True).run()
    assert json.loads((tmp_path / "metrics.json").read_text())["flips"] is True


def test_at_the_edge_what_is_found_and_not_annotated_is_forgiven_and_nothing_else():
    found, truth = np.zeros((2, 20, 20), bool)
    found[0:3, 2:4] = True  # at the edge, and annotated
    found[0:3, 8:10] = True  # at the edge, and not
    found[17:20, 17:20] = True  # at a corner, and not
    found[9:12, 9:12] = True  # inside, and not
    truth[2:6, 2:4] = True
    forgiven = unannotated_at_border(found, truth)
    assert forgiven[0:3, 8:10].all()
    assert forgiven[17:20, 17:20].all()
    assert forgiven.sum() == 6 + 9


class OneTooMany:
    """Finds what is annotated, and a square at the first corner."""

    parts = ("cell",)

    def __init__(self, dataset):
        self.dataset = dataset

    def predict(self, example, pixels):
        mask = self.dataset.read_mask(example)
        mask[:9, :9] = True
        return Prediction(masks={"cell": mask}, working=Tiles(scale=0.5).working_mask(mask))


def test_forgiving_the_border_leaves_out_what_is_annotated_nowhere(tiny_dataset):
    examples = [one for one in tiny_dataset.examples("train") if not tiny_dataset.read_mask(one)[:11, :11].any()]
    assert examples
    for forgive, precise in ((False, False), (True, True)):
        source, view = OneTooMany(tiny_dataset), Tiles(scale=0.5)
        evaluator = Evaluator(source=source, dataset=tiny_dataset, view=view, forgive_border=forgive)
        scored = [one for one in evaluator.score("train") if one.example in examples]
        assert all((one.native.fp == 0) is precise for one in scored)
        assert all((one.network.fp == 0) is precise for one in scored)
        assert all(one.native.fn == 0 for one in scored)
        drawn = evaluator.segment(examples[0])
        assert np.array_equal(drawn.predicted, drawn.truth) is precise


def test_that_the_border_was_forgiven_is_said(model, tiny_dataset, tmp_path):
    Evaluate(model=str(model), dataset=tiny_dataset.location.uri, out=str(tmp_path), forgive_border=True).run()
    assert json.loads((tmp_path / "metrics.json").read_text())["forgive_border"] is True
    assert "and no annotation do not count (--forgive-border)" in (tmp_path / "metrics.md").read_text()
