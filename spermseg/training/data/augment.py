"""Augmentation on the fly: an epoch has `expansion` variants of each picture."""

import os
from typing import Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import must not check for updates over the network

import albumentations as A  # noqa: N812 (its documented name)
import cv2
import numpy as np
from numpy.typing import NDArray

from spermseg.errors import ConfigError
from spermseg.training.data.coverage import FULL, UNKNOWN

AugmentName = Literal["none", "symmetries", "paper", "clinic"]
PAPER_VARIANTS = ("as it is", "centre crop", "rotation by 90", "grid distortion", "horizontal flip", "vertical flip")
"""Names of the variants of `paper`, in the order of their numbers."""
CROP_SHARE = 0.75
"""Share of each side that the centre crop keeps. The paper does not state this share."""


class Augmentation:
    """Variants of a picture, each a function of (seed, variant) alone. Not safe to share between threads.

    The variants of `none` are the picture itself. Variant 0 of `paper` is the picture itself; the others are the
    paper's five transforms: CenterCrop (resized to the size of the picture), RandomRotate90, GridDistortion,
    HorizontalFlip, VerticalFlip. Every variant of `symmetries` is a random symmetry of the square. Every variant of
    `clinic` adds random scale, rotation, light, stain, blur and noise to such a symmetry.
    """

    def __init__(self, name: AugmentName, size: int) -> None:
        """Prepare the transforms for square pictures of `size` px."""
        self._transforms: list[A.Compose] = []
        if name == "paper":
            self._transforms = [A.Compose([], seed=0), *(A.Compose([one], seed=0) for one in _paper_transforms(size))]
        elif name == "symmetries":
            self._transforms = [A.Compose([A.SquareSymmetry(p=1.0)], seed=0)]
        elif name == "clinic":
            self._transforms = [A.Compose(_clinic_transforms(), seed=0)]

    def variant(
        self, pixels: NDArray[np.uint8], coverage: NDArray[np.uint8], variant: int, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return one variant of a square picture (Y, X, 3) and its coverage (Y, X, classes), both uint8."""
        if not self._transforms:
            return pixels, coverage
        transform = self._transforms[variant % len(self._transforms)]
        transform.set_random_seed(seed)
        unknown = coverage == UNKNOWN  # not an amount of cell, so interpolation must not mix it with amounts
        if not unknown.any():
            changed = transform(image=pixels, mask=coverage)
            return changed["image"], changed["mask"].reshape(coverage.shape)
        both = np.concatenate([np.where(unknown, np.uint8(0), coverage), unknown * np.uint8(FULL)], axis=-1)
        changed = transform(image=pixels, mask=both)
        known, unknown = np.split(changed["mask"], 2, axis=-1)
        return changed["image"], np.where(unknown > 0, np.uint8(UNKNOWN), known)


def check_expansion(name: AugmentName, expansion: int) -> None:
    """Check an expansion.

    Raises:
        ConfigError: the expansion is less than 1, or more than 1 without augmentation.
    """
    if expansion < 1 or (name == "none" and expansion != 1):
        raise ConfigError(
            f"got expansion {expansion} with augmentation {name!r}; 1 or more is needed, and exactly 1 with 'none'"
        )


def _paper_transforms(size: int) -> list[A.BasicTransform]:
    crop = int(size * CROP_SHARE)
    return [
        A.Sequential([A.CenterCrop(crop, crop), A.Resize(size, size)], p=1.0),
        A.RandomRotate90(p=1.0),
        A.GridDistortion(p=1.0, border_mode=cv2.BORDER_REFLECT_101),
        A.HorizontalFlip(p=1.0),
        A.VerticalFlip(p=1.0),
    ]


def _clinic_transforms() -> list[A.BasicTransform]:
    """Return transforms of moderate strength: saturated light would hide faint tails that are annotated."""
    return [
        A.SquareSymmetry(p=1.0),
        A.Affine(
            scale=(0.8, 1.25),
            rotate=(-20, 20),
            mask_interpolation=cv2.INTER_LINEAR,  # coverage is an amount; the nearest pixel would make edges ragged
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.5,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.25, ensure_safe_range=True, p=0.6),
        A.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=25, val_shift_limit=0, p=0.5),
        A.GaussianBlur(sigma_limit=(0.2, 1.5), p=0.2),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.3),
    ]
