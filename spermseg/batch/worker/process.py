"""What a process needs to segment, and the bounds it sets itself."""

import hashlib
from dataclasses import dataclass, field

import cv2
import torch

from spermseg.batch.worker.decode import Decode, Decoder, Provenance
from spermseg.batch.worker.process_limits import Limits, limit_memory
from spermseg.batch.worker.segmenter import UnitSegmenter
from spermseg.batch.worker.settings import SegmentSettings
from spermseg.model.engine import check_gpu
from spermseg.model.predict import PredictConfig
from spermseg.model.saved import decode_model
from spermseg.storage.patience import Patience, patience

MEMORY_BYTES, BYTES_PER_PIXEL = 2**31, 48
"""What segmenting may take beside the model: so much, and so much for each pixel of the largest picture allowed."""


@dataclass(frozen=True, kw_only=True)
class Segmenting:
    """With what, how, and for which run a process segments. It travels to every worker."""

    model: bytes
    settings: SegmentSettings
    predict: PredictConfig
    run_id: str
    decode: Decode
    hang_s: float
    """A decoder that takes longer is taken to hang."""
    patience: Patience = field(default_factory=patience)
    """With a storage that fails in a way that may pass: that of the job, which travels with this."""
    bounded: bool = True
    """Whether the process that segments is bounded in memory and time: not where it does other work, too."""

    @property
    def limits(self) -> Limits:
        """Of the time that a step may take."""
        return Limits.of(self.hang_s, self.settings.max_megapixels)

    @property
    def provenance(self) -> Provenance:
        """What every row says of its making."""
        return Provenance(
            run_id=self.run_id,
            model_sha256=hashlib.sha256(self.model).hexdigest(),
            recipe_sha256=self.settings.sha256,
            um_per_px=self.settings.um_per_px,
        )

    @property
    def memory(self) -> int:
        """Bytes that a process may have beside what it begins with."""
        return MEMORY_BYTES + int(BYTES_PER_PIXEL * 1e6 * self.settings.max_megapixels)

    @property
    def decoder(self) -> Decoder:
        """What decodes, where that is a stage of its own."""
        return Decoder(provenance=self.provenance, settings=self.settings, read=self.decode)

    def check_device(self) -> None:
        """See that this process can compute.

        Raises:
            ConfigError: its GPU cannot be used.
        """
        if self.predict.device != "cpu":
            check_gpu()

    def start(self, threads: int) -> UnitSegmenter:
        """Make this process one that segments: load the model, and bound the memory.

        Args:
            threads: that decode while the network works.

        Raises:
            ConfigError: the GPU cannot be used, or the engine is not there.
        """
        self.check_device()
        if self.predict.device == "cpu":  # one process a CPU: more threads would only be in each other's way
            torch.set_num_threads(1)
        cv2.setNumThreads(1)
        segmenter = UnitSegmenter(
            decode_model(self.model),
            self.settings,
            self.predict,
            run_id=self.run_id,
            threads=threads,
            decode=self.decode,
            limits=self.limits if self.bounded else None,
        )
        if self.bounded:
            limit_memory(self.memory)
        return segmenter
