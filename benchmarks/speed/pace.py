"""The pace of a pipeline, without the time that its workers take to start."""

import time

from spermseg.batch.run import Progress


class Pace:
    """Measures the pace from the progress of a run.

    A worker's time begins at the end of its first unit, which is not counted. The time lasts until the last unit of the
    run is finished, so a worker that is idle at the end counts, too.
    """

    def __init__(self) -> None:
        self.begun: list[float] = []
        """When each worker finished its first unit, seconds."""
        self.ended = 0.0
        """When the last unit was finished, seconds."""
        self._pictures = 0
        self._done: int | None = None

    def __call__(self, progress: Progress) -> None:
        """Take the progress of a run, at its start and after each unit."""
        self.ended = time.perf_counter()
        if len(progress.profile.workers) > len(self.begun):
            self.begun.append(self.ended)
        elif self._done is not None:
            self._pictures += progress.done - self._done
        self._done = progress.done

    @property
    def seconds_a_picture(self) -> float:
        """Seconds a picture of all workers together.

        Raises:
            SystemExit: no worker has finished a second unit.
        """
        if not self._pictures:
            raise SystemExit("each worker did one unit of work; take more pictures")
        seconds = sum(self.ended - one for one in self.begun) / len(self.begun)
        return seconds / self._pictures
