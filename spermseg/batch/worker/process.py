"""What a process needs to segment, and the limits that it sets for itself."""

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
"""Memory for segmenting beside the model: a constant, and bytes per pixel of the largest picture allowed."""


@dataclass(frozen=True, kw_only=True)
class Segmenting:
    """The model, settings and limits with which a process segments for a run. Every worker gets a copy."""

    model: bytes
    settings: SegmentSettings
    predict: PredictConfig
    run_id: str
    decode: Decode
    hang_s: float
    """Seconds. A decoder that takes longer counts as hanging."""
    patience: Patience = field(default_factory=patience)
    """How long to retry a storage that fails: that of the job."""
    bounded: bool = True
    """Whether to limit the memory and time of the process. False in a process that also does other work."""

    @property
    def limits(self) -> Limits:
        """The time limits of the steps."""
        return Limits.of(self.hang_s, self.settings.max_megapixels)

    @property
    def provenance(self) -> Provenance:
        """The columns that are the same in every row of the run."""
        return Provenance(
            run_id=self.run_id,
            model_sha256=hashlib.sha256(self.model).hexdigest(),
            recipe_sha256=self.settings.sha256,
            um_per_px=self.settings.um_per_px,
        )

    @property
    def memory(self) -> int:
        """Bytes that a process may allocate beside what it has at its start."""
        return MEMORY_BYTES + int(BYTES_PER_PIXEL * 1e6 * self.settings.max_megapixels)

    @property
    def decoder(self) -> Decoder:
        """The decoder, for a stage that only decodes."""
        return Decoder(provenance=self.provenance, settings=self.settings, read=self.decode)

    def check_device(self) -> None:
        """Check the GPU of this process, if it uses one.

        Raises:
            ConfigError: the GPU cannot be used.
        """
        if self.predict.device != "cpu":
            check_gpu()

    def start(self, threads: int) -> UnitSegmenter:
        """Load the model, and set the limits of this process.

        Args:
            threads: number of threads that decode, and of threads that measure.

        Raises:
            ConfigError: the GPU cannot be used, or the engine is not installed.
        """
        self.check_device()
        if self.predict.device == "cpu":  # each CPU has its own process: more threads would compete for it
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
