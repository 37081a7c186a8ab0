"""`spermseg preview`: overlays of what a model finds in a few pictures."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated

import tyro
from tqdm import tqdm

from spermseg.api import Model, Segmentation, load_model
from spermseg.cli.arguments.options import PATIENCE_MINUTES, EndpointUrl, ModelFile, OptionalFloat, PatienceMinutes
from spermseg.cli.terminal import say
from spermseg.dataset.pairing import IMAGE_SUFFIXES
from spermseg.errors import ConfigError, MicrographError, TooManyRejectedError
from spermseg.micrograph.decode import decode_micrograph
from spermseg.report.figures import encode_jpeg, overlay
from spermseg.storage.filesystem import Location

OUTLINE_SHARE = 1 / 700
"""Width of an outline, of the width of the picture."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Write each picture with the outlines of the cells that a model finds, and print their number. No Ray, no table.

    This is a first look at a model and at your own pictures, in seconds. The cells are those that `spermseg segment`
    finds. Exits with 4 if no picture could be read.

    Example: spermseg preview slides/*.jpg --out preview
    """

    pictures: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PICTURE [PICTURE ...]", help_behavior_hint="(required)"),
    ]
    """Picture files and folders with picture files, also s3://bucket/key."""
    out: str
    """Folder for the overlays, which have the names of their pictures. Existing files of these names are replaced."""
    model: ModelFile = None
    """The model file."""
    um_per_px: OptionalFloat = None
    """Pixel size in micrometres. Areas are then printed in um2."""
    width: int = 2000
    """Largest width of an overlay, px."""
    endpoint_url: EndpointUrl = None
    """S3 server, if it is not AWS."""
    patience: PatienceMinutes = PATIENCE_MINUTES

    def run(self) -> int:
        """Segment the pictures, write the overlays, and print the counts."""
        out, named = Location(self.out, self.endpoint_url), _apart(self._named())
        if not named:
            kinds = ", ".join(IMAGE_SUFFIXES)
            raise ConfigError(f"got no picture in {', '.join(self.pictures)}; files {kinds} are needed")
        originals = {place.uri for place in named}
        for place, name in named.items():
            if out.child(name).uri in originals:
                raise ConfigError(f"the overlay of {place.uri} would replace the picture itself; give another --out")
        model, read = load_model(self.model, endpoint_url=self.endpoint_url), 0
        for place, name in tqdm(named.items(), unit="picture", leave=False, disable=None):
            with tqdm.external_write_mode():
                read += self._preview(model, place, out.child(name))
        say(f"{read} of {len(named)} pictures: {out.uri}")
        if not read:
            raise TooManyRejectedError(f"none of {len(named)} pictures could be read")
        return 0

    def _named(self) -> Iterator[tuple[Location, str]]:
        """Yield the given pictures, and the pictures in given folders, each with a name for its overlay."""
        for given in self.pictures:
            place = Location(given, self.endpoint_url)
            inside = [item for item in place.list() if item.uri != place.uri]
            if not inside:
                yield place, place.name
            for item in inside:
                if item.key.lower().endswith(IMAGE_SUFFIXES):
                    yield Location(item.uri, self.endpoint_url), item.key

    def _preview(self, model: Model, place: Location, target: Location) -> bool:
        """Write one overlay. Return whether the picture could be read."""
        data = place.read_bytes()
        try:
            found, pixels = model.segment(data, um_per_px=self.um_per_px), decode_micrograph(data).pixels
        except MicrographError as error:
            say(f"{place.uri}: rejected: {error.message}")
            return False
        thickness = max(1, round(OUTLINE_SHARE * pixels.shape[1]))
        target.write_bytes(encode_jpeg(overlay(pixels, found.mask, thickness=thickness), self.width, quality=90))
        say(f"{place.uri}: {self._counted(found)}; expected Dice: {found.confidence:.2f}")
        return True

    def _counted(self, found: Segmentation) -> str:
        heads = "" if found.n_heads is None else f"heads: {found.n_heads}, "
        area = sum(cell.area_um2 or 0 for cell in found.cells)
        return f"{heads}outlines: {len(found.cells)}" + f", {area:.0f} um2" * (self.um_per_px is not None)


def _apart(named: Iterable[tuple[Location, str]]) -> dict[Location, str]:
    """Return picture -> the name of its overlay, *.jpg. A name that is taken already gets a number."""
    found: dict[Location, str] = {}
    for place, name in named:
        stem, number = name.removesuffix(".jpg"), count(2)
        wanted = f"{stem}.jpg"
        while place not in found and wanted in found.values():
            wanted = f"{stem}-{next(number)}.jpg"
        found.setdefault(place, wanted)
    return found
