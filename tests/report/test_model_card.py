"""The model card and the tables of scores, in Markdown: what a dataset calls its parts is no markup there."""

import re
from dataclasses import replace

import pytest

from spermseg.micrograph.tiling import Tiles
from spermseg.model.description import ModelDescription
from spermseg.model.unet_config import UNetConfig
from spermseg.report.model_card import render_model_card
from spermseg.report.scores import markdown_table

HOSTILE = "x|y\n# z [a](javascript:alert(1)) <script> `b` \u202e www.evil.example"
DESCRIPTION = ModelDescription(
    network=UNetConfig(classes=("cell", "head_1")),
    view=Tiles(),
    threshold=0.5,
    min_area=64,
    recipe="clinic",
    settings={"start": "scratch"},
    training_data_sha256="0" * 64,
    scores={"val_dice": 0.5},
    version="0.1.0",
)


def card(**changes) -> str:
    return render_model_card(replace(DESCRIPTION, **changes), {"train": 8, "val": 2}, 3, 4)


def structure(text: str) -> list[str]:
    """Return the marks at which Markdown takes each line for what it is, outside of blocks of code."""
    outside = re.sub(r"^```.*?^```$", "```", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"\\.|[^#|`<\[]", "", line) for line in outside.splitlines()]


def test_a_card_says_what_the_model_is():
    text = card()
    assert text.startswith("# Model card: clinic, cell, head\\_1\n")
    assert "| started from | scratch |" in text
    assert "| dice | 0.5000 |" in text
    assert "| pixel size | not stated |" in text
    assert "| pixel size | 0.11 um/px |" in card(um_per_px=0.11)
    assert "| started from | model `abc` |" in card(settings={"start": "abc"})


@pytest.mark.parametrize(
    "changes",
    [
        {"network": UNetConfig(classes=("cell", HOSTILE))},
        {"recipe": HOSTILE},
        {"version": HOSTILE},
        {"scores": {f"val_{HOSTILE}": 0.5}},
        {"settings": {"start": "scratch", "```\n# x": "```\n\u202e<script>"}},
    ],
    ids=str,
)
def test_no_text_of_a_model_changes_the_structure_of_its_card(changes):
    text = card(**changes)
    assert structure(text) == structure(card())
    assert "\u202e" not in text
    assert "www.evil" not in text


def test_no_name_of_a_part_changes_the_structure_of_the_table_of_scores():
    def table(part: str) -> str:
        scores = {"pooled": {"iou": 0.5}, "per_image": {}}
        metrics = {"split": "test", "n_images": 1, "parts": {part: scores}, "tolerance_px": 2, "empty_mask_rule": "1"}
        return markdown_table(metrics | scores)

    assert structure(table(HOSTILE)) == structure(table("head"))
    assert "head" in table("head")
