"""`spermseg demo`: the whole job on synthetic micrographs."""

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
    """Run the whole job on a small clinic of synthetic micrographs: no data, network or account is needed.

    Draws annotated pictures and a night's uploads (files, a .zip, a .tar, three of them broken), prepares a dataset,
    trains, evaluates, segments, verifies and writes the report. About five minutes on two CPU cores.

    Example: spermseg demo --out demo
    """

    out: Path = Path("demo")
    """Folder to write to. One of an earlier demo is replaced; any other is left alone."""
    epochs: int = 4
    """Of the training; fewer are faster, and see less."""
    seed: int = 0
    """Another seed draws another clinic."""

    def run(self) -> int:
        """Run every step and say what to look at."""
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
        _say("4/6  spermseg evaluate: on patients it has never seen")
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
                raise ConfigError(f"{self.out} holds something else than a demo; give another --out")
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True)
        (self.out / MARKER).touch()

    def _conclude(self, seconds: float) -> None:
        _say(f"done in {seconds / 60:.1f} minutes; everything is in {self.out.absolute()}")
        for place, what in (
            ("results/report.html", "look at this first: open it in a browser"),
            ("evaluation/overlays.png", "where model and annotation agree, and where not"),
            ("training/curves.png", "how it learned"),
            ("training/model_card.md", "what the model is"),
            ("results/results", "the table: Parquet, one row an upload"),
            ("clinic", "the synthetic micrographs, their annotations, and the uploads"),
        ):
            say(f"  {self.out / place!s:<32} {what}")


def _say(text: str) -> None:
    say("", f"=== {text}")
