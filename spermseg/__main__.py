"""`python -m spermseg`: the command."""

from spermseg.cli import main

main()
