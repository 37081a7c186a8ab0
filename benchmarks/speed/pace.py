"""The pace of a pipeline once its workers are at work: what starting took is left out, and nothing else."""

import time

from spermseg.batch.run import Progress


class Pace:
    """Watches the progress of a run.

    A worker's time begins with the end of its first unit, which is not counted, and lasts until the last unit of all
    is done: that it has nothing left to do at the end counts, too.
    """

    def __init__(self) -> None:
        self.begun: list[float] = []
        """When each worker had done its first unit, seconds."""
        self.ended = 0.0
        """When the last unit was done, seconds."""
        self._pictures = 0
        self._done: int | None = None

    def __call__(self, progress: Progress) -> None:
        """Note what a run says of itself: once when it begins, and after each unit."""
        self.ended = time.perf_counter()
        if len(progress.profile.workers) > len(self.begun):
            self.begun.append(self.ended)
        elif self._done is not None:
            self._pictures += progress.done - self._done
        self._done = progress.done

    @property
    def seconds_a_picture(self) -> float:
        """Of all workers together.

        Raises:
            SystemExit: no worker has done a second unit.
        """
        if not self._pictures:
            raise SystemExit("each worker did one unit of work; take more pictures")
        seconds = sum(self.ended - one for one in self.begun) / len(self.begun)
        return seconds / self._pictures
