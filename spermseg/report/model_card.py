"""What a model is, in words, for the person who is asked to trust it."""

import json
from collections.abc import Mapping

import jinja2

from spermseg.model.saved import ModelDescription


def render_model_card(description: ModelDescription, counts: Mapping[str, int], best_epoch: int, epochs: int) -> str:
    """Return the model card as Markdown.

    Args:
        description: the model file's own.
        counts: pictures in each split of the dataset.
        best_epoch: the epoch that was kept.
        epochs: epochs trained.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spermseg", "report"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (Markdown; every value is a number, a digest or a word of a recipe)
    )
    return environment.get_template("model_card.md.jinja").render(
        model=description,
        counts=counts,
        best_epoch=best_epoch,
        epochs=epochs,
        settings=json.dumps(description.settings, indent=2, sort_keys=True),
    )
