"""`spermseg demo`: all steps on synthetic micrographs, from annotations to a report."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from spermseg.cli.evaluate import Evaluate
from spermseg.cli.prepare import Prepare
from spermseg.cli.report import Report
from spermseg.cli.segment import Segment
from spermseg.cli.terminal import say
from spermseg.cli.train import Train
from spermseg.cli.training_run.folder import MODEL
from spermseg.cli.verify import Verify
from spermseg.errors import ConfigError, RunError
from spermseg.synthetic.clinic import ClinicConfig, write_clinic

MARKER = ".spermseg-demo"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run all steps on a small synthetic clinic. No data, no network and no account is needed.

    Makes annotated pictures and the uploads of a night: files, a .zip and a .tar, three of them broken. Then prepares a
    dataset, trains, evaluates, segments, verifies and writes the report. Takes about three minutes on two CPU cores.

    Example: spermseg demo --out demo
    """

    out: Path = Path("demo")
    """Folder to write to. The folder of an earlier demo is replaced; any other folder with files is refused."""
    epochs: int = 4
    """Epochs of the training. Fewer are faster and give a worse model."""
    seed: int = 0
    """Seed of the synthetic clinic and of the training."""

    def run(self) -> int:
        """Run every step, and print what to look at."""
        started = time.monotonic()
        self._clear()
        _say("1/6  making a small synthetic clinic")
        clinic = write_clinic(
            self.out / "clinic",
            ClinicConfig(seed=self.seed),
            lambda patients: tqdm(patients, desc="making", unit="patient"),
        )
        dataset, run, results = self.out / "dataset", self.out / "training", self.out / "results"
        _say("2/6  spermseg prepare: annotations -> masks -> a dataset split by patient")
        Prepare(
            images=clinic.images,
            annotations=clinic.annotations,
            out=str(dataset),
            group_pattern="(patient-[0-9]+)",
            fractions=(0.66, 0.17, 0.17),
        ).run()
        _say("3/6  spermseg train: the paper's U-Net on Ray Train")
        Train(dataset=str(dataset), out=str(run), epochs=self.epochs, learning_rate=1e-3, seed=self.seed).run()
        _say("4/6  spermseg evaluate: on patients that the model has never seen")
        model = str(run / MODEL)
        Evaluate(model=model, dataset=str(dataset), split="test", out=str(self.out / "evaluation")).run()
        _say("5/6  spermseg segment: tonight's uploads on Ray Data")
        Segment(source=str(clinic.uploads), model=model, out=str(results)).run()
        if Verify(out=str(results)).run():
            raise RunError("the demo's table does not hold one row for each upload; please report this")
        _say("6/6  spermseg report")
        Report(out=str(results)).run()
        self._conclude(time.monotonic() - started)
        return 0

    def _clear(self) -> None:
        if self.out.exists():
            if any(self.out.iterdir()) and not (self.out / MARKER).exists():
                raise ConfigError(f"{self.out} holds files, and is not the folder of a demo; give another --out")
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True)
        (self.out / MARKER).touch()

    def _conclude(self, seconds: float) -> None:
        _say(f"done in {seconds / 60:.1f} minutes; everything is in {self.out.absolute()}")
        for place, what in (
            ("results/report.html", "look at this first: open it in a browser"),
            ("evaluation/overlays.png", "where model and annotation agree, and where they differ"),
            ("training/curves.png", "loss and scores of each epoch"),
            ("training/model_card.md", "what the model is"),
            ("results/results", "the table: Parquet, one row for each micrograph"),
            ("clinic", "the synthetic micrographs, their annotations, and the uploads"),
        ):
            say(f"  {self.out / place!s:<32} {what}")


def _say(text: str) -> None:
    say("", f"=== {text}")
