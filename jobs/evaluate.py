"""Run `spermseg evaluate` as a Ray job: `ray job submit --working-dir . -- python jobs/evaluate.py ...`."""

from spermseg.cli import run_verb

if __name__ == "__main__":
    run_verb("evaluate")
