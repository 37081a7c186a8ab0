"""The text of `--help`, from the docstrings of the arguments."""

from functools import cache
from typing import Annotated

import tyro
from docstring_parser import parse_from_object


@cache
def join_help_lines(verb: type) -> None:
    """Let `--help` wrap the docstring of each argument as one paragraph.

    Without this, tyro keeps the line breaks of the source: it takes an indented line for a list.
    """
    for argument in parse_from_object(verb).params:
        text = argument.description or ""
        if "\n" in text:
            joined = tyro.conf.arg(help=" ".join(text.split()))
            verb.__annotations__[argument.arg_name] = Annotated[verb.__annotations__[argument.arg_name], joined]
