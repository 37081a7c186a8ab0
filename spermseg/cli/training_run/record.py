"""The progress of a training: a bar, and files after every epoch."""

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from spermseg.cli.training_run.folder import HISTORY
from spermseg.recipes import Recipe
from spermseg.report.charts import curves_figure
from spermseg.storage.filesystem import Location
from spermseg.training.fit import StepReport


class TrainingRecord(AbstractContextManager["TrainingRecord"]):
    """The progress bar of a training; after every epoch also history.csv, curves.png and TensorBoard files."""

    def __init__(self, out: Location, chosen: Recipe) -> None:
        self.out, self.epochs = out, chosen.train.epochs
        self._kept = 0
        self._folder = tempfile.TemporaryDirectory()
        self._board = SummaryWriter(self._folder.name)
        self._bar = tqdm(desc="training", unit="step")

    def show(self, report: StepReport) -> None:
        """Update the progress bar, and record the finished epochs."""
        self._bar.total = self.epochs * report.steps
        if not self._bar.n:  # a resumed training: earlier steps say nothing about the speed
            self._bar.initial = (report.epoch - 1) * report.steps
        self._bar.n = (report.epoch - 1) * report.steps + report.step
        dice = f"{report.history[-1]['val_dice']:.3f}" if report.history else "-"
        self._bar.set_description(f"epoch {report.epoch}/{self.epochs}")
        self._bar.set_postfix_str(f"loss {report.loss:.3f}, validation Dice {dice}")
        self.keep(report.history)

    def keep(self, history: Sequence[Mapping[str, float]]) -> None:
        """Record the finished epochs that are not recorded yet."""
        if len(history) <= self._kept:
            return
        for record in history[self._kept :]:
            for name, value in record.items():
                self._board.add_scalar(name.replace("_", "/", 1), value, int(record["epoch"]))
        self._kept = len(history)
        self._board.flush()
        for file in Path(self._folder.name).iterdir():
            self.out.child("tensorboard", file.name).write_bytes(file.read_bytes())
        self.out.child(HISTORY).write_bytes(_encode_history(history))
        self.out.child("curves.png").write_bytes(curves_figure(history))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._board.close()
        self._folder.cleanup()


def _encode_history(history: Sequence[Mapping[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()
