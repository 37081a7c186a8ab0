"""Stain, light, lens and sensor of a synthetic micrograph. Layers are (Y, X) float32; pictures (3, Y, X), 0 to 255."""

import cv2
import numpy as np
from numpy.typing import NDArray

Layer = NDArray[np.float32]
"""(Y, X) float32, or (3, Y, X) where a docstring says so."""
OPTICAL_DENSITY = {
    "tail": (0.32, 0.25, 0.03),
    "midpiece": (0.44, 0.32, 0.045),
    "neck": (1.0, 0.7, 0.08),
    "nucleus": (2.3, 3.4, 0.42),
    "acrosome": (0.42, 0.88, 0.1),
    "pale": (0.50, 0.30, 0.06),
    "dark": (1.5, 1.3, 0.15),
    "pink": (0.28, 0.55, 0.12),
    "bubble": (0.22, 0.20, 0.16),
    "plasma": (0.032, 0.036, 0.008),
    "cytoplasm": (0.35, 0.32, 0.08),
    "round nucleus": (1.1, 1.5, 0.2),
}
"""Stain -> optical density in red, green and blue, at full strength."""


def lamp_light(
    rng: np.random.Generator,
    slide: np.random.Generator,
    size: tuple[int, int],
    unevenness: float,
    variation: float,
) -> Layer:
    """Return the light that reaches the sensor through an empty slide, (3, Y, X).

    Args:
        rng: random numbers for what differs between the pictures of a slide.
        slide: random numbers for what these pictures share: the colour of the lamp, and its brightest place.
        size: height and width of the picture, px.
        unevenness: greatest fall of the light from the brightest place to the darkest, 0-1.
        variation: how far the colours of lamps differ; with 0, they do not differ.
    """
    colour = np.array([225, 227, 231]) + variation * (slide.normal(0, 3, 3) + slide.normal(0, 4))
    drift = 0.1 * smooth_noise(rng, size, hills=3, shrink=8)
    y, x = (np.linspace(-1, 1, length) - slide.uniform(-0.35, 0.35) for length in drift.shape)
    vignette = (y[:, None] ** 2 + x**2) / 3.65  # 1 in the farthest corner
    fall = unevenness * slide.uniform(0.3, 1.0) * np.clip(vignette + drift, 0, 1)
    light = (np.clip(colour, 180, 246)[:, None, None] * (1 - fall)).astype(np.float32)
    return np.stack([enlarge(channel, size) for channel in light])


def focus(rng: np.random.Generator, light: Layer, blur: float, defocus: float, sharpening: float) -> Layer:
    """Return a picture (3, Y, X) after lens and camera: slightly blurred, sharpened, and out of focus in places.

    Args:
        rng: random numbers for the places out of focus.
        light: the light of the scene, (3, Y, X).
        blur: standard deviation where it is in focus, px.
        defocus: standard deviation where it is most out of focus, px; 0 keeps all in focus.
        sharpening: height of the bright rim around dark things, as a share of the step at their edge.
    """
    weight = np.zeros_like(light[0])
    if defocus > 0:
        weight = np.clip(smooth_noise(rng, weight.shape, hills=3) + rng.uniform(-1.3, 0.1), 0, 1)
    weight -= sharpening * (1 - weight)
    seen = [soften(channel, blur) for channel in light]
    if weight.any():
        sigma = max(defocus, 3 * blur, 1.0)
        seen = [channel + weight * (soften(channel, sigma) - channel) for channel in seen]
    return np.stack(seen)


def record(rng: np.random.Generator, light: Layer, noise: float) -> NDArray[np.uint8]:
    """Return the sensor's output, (Y, X, 3) uint8 RGB, for a picture (3, Y, X).

    The noise grows with the root of the light, as photon noise does. A camera interpolates colour between the sensor's
    pixels, so the noise of colour is coarser than the noise of brightness.

    Args:
        rng: random numbers for the noise.
        light: the light that falls on the sensor, (3, Y, X); not changed.
        noise: standard deviation of the noise in the background, grey levels.
    """
    height, width = light.shape[1:]
    written = []
    fine = 0.8 * rng.standard_normal((height, width), dtype=np.float32)
    for channel in light:
        coarse = rng.standard_normal((-(-height // 2), -(-width // 2)), dtype=np.float32)
        grain = fine + enlarge(coarse, (height, width))
        grain *= np.sqrt(np.maximum(channel, 16))
        seen = cv2.scaleAdd(grain, noise / np.sqrt(228), channel)
        written.append(np.rint(np.clip(seen, 0, 255)).astype(np.uint8))
    return np.asarray(cv2.merge(written), dtype=np.uint8)


def through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return a picture (Y, X, 3) uint8 RGB after it is written to and read from a JPEG file of this quality, 1-100."""
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], hills: int, shrink: int = 1) -> Layer:
    """Return smooth noise of mean 0 and standard deviation about 0.7.

    Args:
        rng: random numbers for the noise.
        size: height and width of the picture, px.
        hills: number of hills along the longer side.
        shrink: the result has 1 / shrink of that size, rounded up.
    """
    grid = [max(2, round(hills * length / max(size))) + 2 for length in size]
    coarse = rng.standard_normal(grid, dtype=np.float32)
    height, width = (-(-length // shrink) for length in size)
    return _as_layer(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def enlarge(layer: Layer, size: tuple[int, ...]) -> Layer:
    """Return a smaller layer at this height and width, px."""
    return _as_layer(cv2.resize(layer, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def soften(layer: Layer, sigma: float) -> Layer:
    """Return a layer blurred by this standard deviation, px."""
    if sigma < 0.05:
        return layer
    if sigma < 3:
        return _as_layer(cv2.GaussianBlur(layer, (0, 0), sigma))
    # The blur leaves nothing finer than 3 px, so half of the resolution is enough.
    height, width = layer.shape
    half = cv2.resize(layer, (-(-width // 2), -(-height // 2)), interpolation=cv2.INTER_AREA)
    return enlarge(_as_layer(cv2.GaussianBlur(half, (0, 0), sigma / 2)), layer.shape)


def _as_layer(array: NDArray[np.generic]) -> Layer:
    return np.asarray(array, dtype=np.float32)  # OpenCV's stubs do not say that it keeps the dtype
