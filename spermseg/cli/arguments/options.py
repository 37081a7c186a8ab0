"""Types of options, with the text that `--help` shows as their default."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from spermseg.storage.patience import DEFAULT_PATIENCE_S


def choice(names: Any, hint: str) -> Any:
    """Return how `--help` shows an optional choice: the names of a Literal, without None, and what None means."""
    return tyro.conf.arg(metavar="{" + ",".join(get_args(names)) + "}", help_behavior_hint=hint)


def recipe_choice(names: Any) -> Any:
    """Return how `--help` shows a choice that the recipe makes unless the command line does."""
    return choice(names, _RECIPE)


_RECIPE = "(default: the recipe's)"
RecipeInt = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_RECIPE)]
RecipeInts = Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N [N ...]", help_behavior_hint=_RECIPE)]
RecipeParts = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="PART [PART ...]", help_behavior_hint=_RECIPE)]
RecipeFloat = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint=_RECIPE)]

_MODEL = "(default: the model's)"
ModelInt = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint=_MODEL)]
ModelFloat = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint=_MODEL)]

Switch = Literal["yes", "no"]
RecipeSwitch = Annotated[Switch | None, recipe_choice(Switch)]
ModelSwitch = Annotated[Switch | None, choice(Switch, _MODEL)]

ModelFile = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the bundled one)")]
Epochs = Annotated[tuple[int, ...], tyro.conf.arg(metavar="N [N ...]", help_behavior_hint="(optional)")]
OptionalInt = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(optional)")]
OptionalFloat = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="(optional)")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(optional)")]
OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]
OptionalPairs = Annotated[
    dict[str, str] | None, tyro.conf.arg(metavar="LABEL PART [LABEL PART ...]", help_behavior_hint="(optional)")
]
EndpointUrl = Annotated[
    str | None, tyro.conf.arg(metavar="URL", help_behavior_hint="(default: AWS_ENDPOINT_URL, else AWS)")
]
PATIENCE_MINUTES = DEFAULT_PATIENCE_S / 60
PatienceMinutes = Annotated[
    float,
    tyro.conf.arg(
        metavar="MINUTES",
        help="How long to retry transient errors of the storage. After that, the command stops with status 1, and the "
        "same command goes on.",
    ),
]
Address = Annotated[
    str | None, tyro.conf.arg(metavar="ADDRESS", help_behavior_hint="(default: RAY_ADDRESS, else this machine)")
]


def is_on(switch: Switch | None, otherwise: bool) -> bool:
    """Return whether a switch is on. Without a value, it is as `otherwise` says: the model's or the recipe's."""
    return otherwise if switch is None else switch == "yes"


Gpu = Literal["auto", "always", "never"]


def wants_gpu(choice: Gpu) -> bool | None:
    """Return whether GPUs are required. None takes those that the cluster has."""
    return {"auto": None, "always": True, "never": False}[choice]
