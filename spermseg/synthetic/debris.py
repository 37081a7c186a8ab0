"""Debris on a smear: droplets, granules, bacteria, smudges, bubbles and round cells. Debris has no labels."""

from dataclasses import dataclass, field

import numpy as np

from spermseg.synthetic.shapes import Points, blob


@dataclass(frozen=True, kw_only=True)
class Debris:
    """All objects of one kind of stain."""

    outlines: list[Points] = field(default_factory=list)
    """One (N, 2) polygon an object, px."""
    densities: list[float] = field(default_factory=list)
    """Share of the stain's full optical density of each object, 0-1."""

    def add(self, outline: Points, density: float) -> None:
        """Add one object."""
        self.outlines.append(outline)
        self.densities.append(density)


@dataclass(frozen=True, kw_only=True)
class FieldDebris:
    """All debris of one picture, by its look."""

    pale: Debris = field(default_factory=Debris)
    """Pale blue: droplets, platelets, crumbs of cytoplasm."""
    dark: Debris = field(default_factory=Debris)
    """Dark blue: granules, and bacteria in chains."""
    pink: Debris = field(default_factory=Debris)
    """Purple smudges of mucus, with soft edges."""
    bubbles: Debris = field(default_factory=Debris)
    """Rims of bubbles and of water marks; each polygon joins the outer and the inner outline."""


def scatter_debris(rng: np.random.Generator, height: int, width: int, scale: float, amount: float) -> FieldDebris:
    """Return the debris of one picture.

    Args:
        rng: random numbers for kinds and places.
        height: of the picture, px.
        width: of the picture, px.
        scale: size of the debris; 1 fits heads of about 80 px.
        amount: 0 is a clean slide, 1 an ordinary one.
    """
    found = FieldDebris()
    if amount == 0:
        return found
    fields = amount * height * width / (1024 * 1280 * scale**2)  # area, in pictures of the default size

    def places(mean: float) -> Points:
        # Debris clusters: one field is clean and the next is full. So counts vary far more than a Poisson count.
        drawn = int(rng.negative_binomial(1.5, 1.5 / (1.5 + mean * fields)))
        count = min(drawn, round(8 * mean * fields) + 1)
        return rng.uniform(0, 1, (count, 2)) * [width, height]

    for place in places(9):
        found.pale.add(blob(rng, place, scale * rng.uniform(3, 15), rough=0.15), rng.uniform(0.2, 1.0))
    for place in places(90):
        found.pale.add(blob(rng, place, scale * rng.uniform(1.5, 4), points=8), rng.uniform(0.1, 0.6))
    for place in places(6):
        found.dark.add(blob(rng, place, scale * rng.uniform(1.5, 5), points=12), rng.uniform(0.2, 0.9))
    for place in places(0.8):
        _add_bacteria(rng, found.dark, place, scale)
    for place in places(5):
        _add_smudge(rng, found.pink, place, scale)
    for place in places(0.7):
        radius = scale * rng.uniform(6, 24)
        outline = blob(rng, place, radius, rough=0.02)
        rim = np.concatenate([outline, outline[:1], ((outline - place) * (1 - 3 * scale / radius) + place)[::-1]])
        found.bubbles.add(rim, rng.uniform(0.3, 1.0))
    return found


def scatter_round_cells(
    rng: np.random.Generator, height: int, width: int, scale: float, number: tuple[int, int]
) -> FieldDebris:
    """Return leukocytes and immature germ cells: pale round bodies, with a dark nucleus of one to three lobes.

    Args:
        rng: random numbers for number and places.
        height: of the picture, px.
        width: of the picture, px.
        scale: size of the cells; 1 fits sperm heads of about 80 px.
        number: the least and the greatest number of cells.
    """
    found = FieldDebris()
    for _ in range(rng.integers(number[0], number[1] + 1)):
        place, radius = rng.uniform(0, 1, 2) * [width, height], scale * rng.uniform(55, 130)
        found.pale.add(blob(rng, place, radius, rough=0.06), rng.uniform(0.3, 1.0))
        density = rng.uniform(0.4, 1.0)
        for _ in range(rng.integers(1, 4)):
            middle = place + radius * rng.uniform(-0.35, 0.35, 2)
            found.dark.add(blob(rng, middle, radius * rng.uniform(0.25, 0.5), rough=0.1), density)
    return found


def _add_bacteria(rng: np.random.Generator, dark: Debris, place: Points, scale: float) -> None:
    """Add a chain of rods."""
    angle, density = rng.uniform(0, np.pi), rng.uniform(0.4, 0.9)
    for _ in range(rng.integers(1, 6)):
        angle += rng.normal(0, 0.25)
        along = np.array([np.cos(angle), np.sin(angle)])
        rod = blob(rng, np.zeros(2), scale * 3.2, points=14, rough=0.03)
        stretched = rod + np.outer(rod @ along, along) * 0.9
        dark.add(stretched + place, density)
        place = place + along * scale * 13.5


def _add_smudge(rng: np.random.Generator, pink: Debris, place: Points, scale: float) -> None:
    """Add a cloud of overlapping flakes."""
    reach = scale * rng.uniform(6, 34)
    for _ in range(rng.integers(3, 14)):
        pink.add(
            blob(rng, place + rng.normal(0, reach, 2), reach * rng.uniform(0.15, 0.55), points=14, rough=0.25),
            rng.uniform(0.1, 0.4),
        )
