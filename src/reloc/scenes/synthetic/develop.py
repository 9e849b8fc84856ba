"""From the light that falls into a camera to the bytes of its picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from reloc.scenes.synthetic.render import Lighting
from reloc.scenes.synthetic.tracer import Floats


@dataclass(frozen=True)
class Sensor:
    """What lens and sensor add. Lengths are in pixels.

    Attributes:
        blur: standard deviation of the lens's point spread.
        motion: length of the smear by a moving hand.
        noise: standard deviation in dark parts, of 255.
        vignetting: light that is lost in the corners, 0 to 1.
    """

    blur: float = 0.55
    motion: float = 0.0
    noise: float = 1.5
    vignetting: float = 0.3


def develop(
    radiance_HW3: Floats, lighting: Lighting, sensor: Sensor, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The bytes (H, W, 3) that a camera makes of linear light."""
    height, width = radiance_HW3.shape[:2]
    gain = 2 ** (lighting.exposure + _automatic_stops(radiance_HW3))
    light = radiance_HW3 * np.float32(gain)
    light *= np.array([1 + 0.25 * lighting.warmth, 1, 1 - 0.25 * lighting.warmth], np.float32)
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    light *= (1 - sensor.vignetting * (x[None] ** 2 + y[:, None] ** 2) / 2)[..., None]
    if sensor.blur > 0:
        light = cv2.GaussianBlur(light, (0, 0), sensor.blur)
    if sensor.motion > 0:
        light = cv2.filter2D(light, -1, _smear(sensor.motion, rng.uniform(0, np.pi)))
    # Shot noise grows with the root of the light: on the square-root scale it is one everywhere.
    noise = np.float32(sensor.noise / 255) * rng.standard_normal(light.shape, np.float32)
    tones = np.clip((np.sqrt(light) + noise) * np.float32(1023 / 2), 0, 1023).astype(np.uint16)
    return TONES[tones]


def _automatic_stops(radiance_HW3: Floats) -> float:
    """What automatic exposure adds, in stops: it takes the median to middle gray, mostly."""
    middle = float(np.median(radiance_HW3[::8, ::8, 1])) + 0.02
    return 0.75 * float(np.log2(0.2 / middle))


def _smear(length_px: float, angle: float) -> Floats:
    """A kernel: a line through the middle."""
    half = int(np.ceil(length_px / 2)) + 1
    axis = np.arange(-half, half + 1, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    along, across = x * np.cos(angle) + y * np.sin(angle), x * np.sin(angle) - y * np.cos(angle)
    inside = np.clip(length_px / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    return (inside / inside.sum()).astype(np.float32)


def _tone_curve() -> NDArray[np.uint8]:
    """Bytes (1024,) for the square root of light, from 0 to 2.

    Source: K. Narkowicz, "ACES filmic tone mapping curve", 2016, and sRGB's gamma.
    """
    light = 0.8 * np.linspace(0, 2, 1024) ** 2
    film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    return np.rint(255 * np.clip(film, 0, 1) ** (1 / 2.2)).astype(np.uint8)


TONES = _tone_curve()
"""The byte for each level of the square root of light, from 0 to 2."""
