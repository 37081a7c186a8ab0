"""What a model is, in words, for the person who is asked to trust it."""

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
        description: the model file's own.
        counts: pictures in each split of the dataset.
        best_epoch: the epoch that was kept.
        epochs: epochs trained.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spermseg", "report"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (of HTML; this is Markdown, and what is no number passes `_shown`)
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
    """Return a value as Markdown shows it; JSON in a block of code, marked as such, is all ASCII and has no way out."""
    return markdown(value) if isinstance(value, str) and not isinstance(value, Markup) else value
