"""Run `spermseg train` as a Ray job: `ray job submit --working-dir . -- python jobs/train.py ...`."""

from spermseg.cli import run_verb
from spermseg.cli.train import Train

if __name__ == "__main__":
    run_verb(Train)
