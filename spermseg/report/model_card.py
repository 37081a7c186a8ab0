"""The model card: a description of a model for people."""

import json
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from spermseg.model.description import ModelDescription
from spermseg.texts import markdown


def render_model_card(description: ModelDescription, counts: Mapping[str, int], best_epoch: int, epochs: int) -> str:
    """Return the model card as Markdown.

    Args:
        description: the description in the model file.
        counts: pictures in each split of the dataset.
        best_epoch: the epoch of the saved weights.
        epochs: number of trained epochs.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spermseg", "report"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (that escapes HTML; this is Markdown, and `_shown` escapes every text)
        finalize=_shown,
    )
    return environment.get_template("model_card.md.jinja").render(
        model=description,
        counts=counts,
        best_epoch=best_epoch,
        epochs=epochs,
        settings=Markup(json.dumps(description.settings, indent=2, sort_keys=True)),  # noqa: S704 (see `_shown`)
    )


def _shown(value: Any) -> Any:
    """Return a value with Markdown escaped.

    `Markup` is not escaped: it is JSON in a block of code. JSON escapes line breaks in texts, so no text can end the
    block.
    """
    return markdown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
