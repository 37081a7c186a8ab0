"""`spermseg verify`: recount a table from its files."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from spermseg.batch.receipt import verify
from spermseg.cli.options import EndpointUrl
from spermseg.storage.filesystem import Location


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Recount every run from its own files: each planned micrograph must have exactly one row.

    Exits with 0 when all is well, and with 1 and the differences, a line each, when it is not.

    Example: spermseg verify results
    """

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder or s3://bucket/prefix that `spermseg segment` wrote to."""
    endpoint_url: EndpointUrl = None
    """S3 server, where it is not AWS."""

    def run(self) -> int:
        """Verify and print."""
        rows, wrong = verify(Location(self.out, self.endpoint_url))
        for line in wrong:
            print(line)
        if wrong:
            print(f"{rows} rows, {len(wrong)} difference{'s' * (len(wrong) > 1)}")
        else:
            print(f"verified: {rows} rows, one for each planned")
        return 1 if wrong else 0
