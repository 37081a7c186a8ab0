"""`spermseg calibrate`: a model -> the same model, fitted to annotated pictures in all but its weights."""

from dataclasses import dataclass, replace

from spermseg.cli.arguments.dataset import given_dataset
from spermseg.cli.arguments.options import (
    PATIENCE_MINUTES,
    EndpointUrl,
    ModelFile,
    ModelSwitch,
    OptionalText,
    PatienceMinutes,
    is_on,
)
from spermseg.cli.terminal import say
from spermseg.cli.training_run.model import show_calibration
from spermseg.errors import ConfigError, DatasetError
from spermseg.evaluation.reliability import LEAST_PICTURES
from spermseg.model.pretrained import model_location
from spermseg.model.saved import encode_model, load_model
from spermseg.storage.filesystem import Location
from spermseg.training.calibration import Calibrator, judged_classes
from spermseg.training.data.source import AnnotatedData, SyntheticData, TrainingData


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Fit a model to annotated pictures in all but its weights.

    On the validation split it chooses the threshold with the best mean Dice, fits the confidence, and checks what half
    precision does to the masks. For a model that was trained elsewhere, such as the bundled one, and
    twenty annotated pictures of one's own or more: `spermseg prepare --fractions 0.1 0.9 0` puts most of them into the
    validation split. `spermseg train` does the same at its end.

    Example: spermseg calibrate --dataset dataset --out model.safetensors
    """

    out: str
    """Where the model file is written."""
    dataset: OptionalText = None
    """The dataset: a folder or s3://bucket/prefix."""
    synthetic: bool = False
    """Fit to synthetic micrographs instead of a dataset."""
    model: ModelFile = None
    """The model file; it stays as it is."""
    require_head: ModelSwitch = None
    """Whether a piece that is connected to no head is dropped: loose tails, and those of cells outside of the
    picture. It needs a model that has learned heads."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Fit, write the model, and print what has changed."""
        out = Location(self.out, self.endpoint_url)
        if out.exists():
            raise ConfigError(f"{out.uri} is there already; give another --out")
        saved = load_model(model_location(self.model, self.endpoint_url))
        before, data = saved.description, self._data()
        unknown = set(judged_classes(saved.network)) - set(data.classes)
        if unknown:
            raise DatasetError(f"the model knows {', '.join(sorted(unknown))}; {data.name} has no masks of that")
        require_head = is_on(self.require_head, before.require_head)
        calibrator = Calibrator(
            network=saved.network,
            view=before.view,
            data=data,
            cells=before.cells(require_head=require_head),
            before=before.confidence,
            show=show_calibration,
        )
        fitted = calibrator.calibrate()
        after = replace(before, **vars(fitted), require_head=require_head, calibration_data_sha256=data.sha256)
        out.write_bytes(encode_model(saved.network.state_dict(), after))
        confidence = fitted.confidence
        say(f"threshold: {before.threshold:g} -> {fitted.threshold:g}")
        say(f"temperature {confidence.temperature:.2f}; Dice is expected to be {confidence.offset:.3f} + "
              f"{confidence.slope:.3f} x stability")  # fmt: skip
        pictures = data.counts["val"]
        few = f"; with fewer than {LEAST_PICTURES} the slope stays as it was" * (pictures < LEAST_PICTURES)
        say(f"fitted to {pictures} pictures of the validation split{few}")
        say(f"model: {out.uri}")
        return 0

    def _data(self) -> TrainingData:
        dataset = given_dataset(self.dataset, self.endpoint_url, synthetic=self.synthetic)
        return SyntheticData() if dataset is None else AnnotatedData(dataset=dataset)
