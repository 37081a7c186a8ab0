"""`spermseg calibrate`: a model -> the same weights, with threshold and confidence fitted to annotated pictures."""

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
    """Fit the threshold and the confidence of a model to annotated pictures. Its weights stay the same.

    On the validation split, this chooses the threshold with the best mean Dice, fits the confidence, and measures how
    half precision changes the masks. `spermseg train` does the same at its end. Use it for a model that was trained on
    other pictures, such as the bundled one, and at least twenty annotated pictures of your own. `spermseg prepare
    --fractions 0.1 0.9 0` puts most of them into the validation split.

    Example: spermseg calibrate --dataset dataset --out model.safetensors
    """

    out: str
    """The new model file."""
    dataset: OptionalText = None
    """The dataset: a folder or s3://bucket/prefix."""
    synthetic: bool = False
    """Fit to synthetic micrographs instead of a dataset."""
    model: ModelFile = None
    """The model file to start from. It is not changed."""
    require_head: ModelSwitch = None
    """Drop pieces that are connected to no head: loose tails, and tails of cells outside the picture. Needs a model
    that has learned heads."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Fit, write the model, and print the changes."""
        out = Location(self.out, self.endpoint_url)
        if out.exists():
            raise ConfigError(f"{out.uri} exists already; give another --out")
        saved = load_model(model_location(self.model, self.endpoint_url))
        before, data = saved.description, self._data()
        unknown = set(judged_classes(saved.network)) - set(data.classes)
        if unknown:
            raise DatasetError(
                f"the model has learned {', '.join(sorted(unknown))}, and {data.name} has no masks of this"
            )
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
        few = f"; with fewer than {LEAST_PICTURES} pictures the slope stays the same" * (pictures < LEAST_PICTURES)
        say(f"fitted to {pictures} pictures of the validation split{few}")
        say(f"model: {out.uri}")
        return 0

    def _data(self) -> TrainingData:
        dataset = given_dataset(self.dataset, self.endpoint_url, synthetic=self.synthetic)
        return SyntheticData() if dataset is None else AnnotatedData(dataset=dataset)
