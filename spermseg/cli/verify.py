"""`spermseg verify`: recounts a table from its files."""

import secrets
from dataclasses import dataclass
from typing import Annotated

import tyro
from tqdm import tqdm

from spermseg.batch.reproduce import DeepVerifier
from spermseg.cli.arguments.options import PATIENCE_MINUTES, EndpointUrl, OptionalInt, OptionalText, PatienceMinutes
from spermseg.cli.terminal import say
from spermseg.errors import ConfigError
from spermseg.storage.filesystem import Location
from spermseg.table.results import MEND
from spermseg.table.verify import verify


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Recount every run from its own files: each planned micrograph must have exactly one row, as its receipt says.

    Reads every byte of every result, plan and receipt, and compares it with the digest that the file holds. Missing and
    damaged files are named. The same `spermseg segment` command with --check-files repairs them.

    With --deep, a random sample of the rows that are ok is segmented again in this process, and the masks are compared
    bit for bit. Use the same kind of machine as for the segmentation, because GPUs and CPUs round differently. Uploads
    that are gone or were replaced are counted separately.

    Exits with 0 if there is no difference. Else it prints each difference as a line, and exits with 1.

    Example: spermseg verify results --deep
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder or s3://bucket/prefix that `spermseg segment` wrote to."""
    deep: bool = False
    """Also segment a random sample again."""
    sample: int = 20
    """Number of rows in the sample."""
    seed: OptionalInt = None
    """Seed of the sample (default: a new one each time)."""
    model: OptionalText = None
    """The model file, if it was moved since. Only runs of this model are sampled."""
    endpoint_url: EndpointUrl = None
    """S3 server of the table, and with --deep of the uploads and the model, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Verify and print."""
        if self.sample < 1:
            raise ConfigError(f"got a sample of {self.sample} rows; 1 or more is needed")
        out = Location(self.out, self.endpoint_url)
        rows, wrong = verify(out)
        for line in wrong:
            say(line)
        if wrong:
            say(f"{rows} rows, {_differences(len(wrong))}; {MEND}")
            return 1
        say(f"verified: {rows} rows, one for each planned")
        return self._verify_deep(out) if self.deep else 0

    def _verify_deep(self, out: Location) -> int:
        model = Location(self.model, self.endpoint_url) if self.model else None
        verifier = DeepVerifier(out, model, self.endpoint_url)
        seed = secrets.randbelow(10**6) if self.seed is None else self.seed
        sample = verifier.draw(self.sample, seed)
        with tqdm(desc="segmenting again", unit="picture", total=len(sample)) as bar:
            found = verifier.check(sample, bar.update)
        for line in found.differences:
            say(line)
        apart = f"; {found.out_of_reach} not compared: the upload is gone or was replaced" * bool(found.out_of_reach)
        say(
            f"segmented again, seed {seed}: {found.same} of {len(sample)} the same bit for bit, "
            f"{_differences(len(found.differences))}{apart}"
        )
        return 1 if found.differences else 0


def _differences(number: int) -> str:
    return f"{number} difference{'s' * (number != 1)}"
