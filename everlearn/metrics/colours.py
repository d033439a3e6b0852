"""Colours that the eye reads as numbers: equal steps of value are equal steps of lightness.

All colours are made in OKLCH (Ottosson 2020), a space in which equal distances look equal. Since lightness
alone carries the number, the scales also work in grey and for colour-blind readers.
"""

import math

LEVELS = 21
"""The number of steps of the scale of values: one for each 5 %."""

AGES = 20
"""The number of steps of the scale of ages, from the first experience to the last."""

LIGHT = {"paper": "#ffffff", "wash": "#f5f6f8", "line": "#dfe3e8", "ink": "#181c21", "soft": "#59626d"}
DARK = {"paper": "#14171b", "wash": "#1c2025", "line": "#313840", "ink": "#e7eaee", "soft": "#a3adb8"}

_STROKES = (
    *((0.52, 0.15, 255), (0.66, 0.16, 50), (0.56, 0.11, 165), (0.60, 0.18, 350)),
    *((0.40, 0.10, 300), (0.64, 0.11, 225), (0.48, 0.09, 60), (0.62, 0.12, 110)),
)
METHODS = len(_STROKES)
"""The number of colours for methods."""


def oklch(lightness: float, chroma: float, hue: float) -> str:
    """The sRGB colour "#rrggbb" of a lightness in [0, 1], a chroma, and a hue in degrees, clipped.

    >>> oklch(1, 0, 0), oklch(0, 0, 0)
    ('#ffffff', '#000000')
    """
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(min(max(channel, 0.0), 1.0))):02x}" for channel in linear)


def contrast(first: str, second: str) -> float:
    """The contrast of two colours, from 1 to 21, as WCAG 2.2 defines it.

    >>> contrast("#ffffff", "#000000")
    21.0
    """
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def text_on(colour: str) -> str:
    """Black or white, whichever reads better on `colour`; one of them has a contrast of 4.5 or more."""
    return max("#000000", "#ffffff", key=lambda text: contrast(text, colour))


def values(*, dark: bool = False) -> list[str]:
    """The scale of values, `LEVELS` colours: 0 looks like the page, and more is further away from it."""
    steps = [step / (LEVELS - 1) for step in range(LEVELS)]
    if dark:
        return [oklch(0.25 + 0.60 * t, 0.03 + 0.10 * math.sin(math.pi * t), 270 - 110 * t) for t in steps]
    return [oklch(0.975 - 0.57 * t, 0.015 + 0.115 * t**0.8, 175 + 85 * t) for t in steps]


def ages(*, dark: bool = False) -> list[str]:
    """The scale of ages, `AGES` colours: from the first experience, violet, to the last, orange."""
    steps = [step / (AGES - 1) for step in range(AGES)]
    if dark:
        return [oklch(0.60 + 0.26 * t, 0.16, 290 + 130 * t) for t in steps]
    return [oklch(0.38 + 0.28 * t, 0.16, 290 + 130 * t) for t in steps]


def methods(*, dark: bool = False) -> list[str]:
    """Colours for methods, of differing lightness; dashes tell them apart too."""
    return [oklch(lightness + (0.18 if dark else 0.0), chroma, hue) for lightness, chroma, hue in _STROKES]


def changes(*, dark: bool = False) -> dict[str, str]:
    """Colours for what is kept, lost and gained."""
    if dark:
        return {
            "kept": oklch(0.68, 0.12, 250),
            "lost": oklch(0.72, 0.16, 50),
            "gained": oklch(0.82, 0.12, 170),
        }
    return {"kept": oklch(0.50, 0.13, 255), "lost": oklch(0.64, 0.17, 48), "gained": oklch(0.60, 0.11, 170)}


def variables(*, dark: bool) -> str:
    """All colours as CSS variables."""
    scale = values(dark=dark)
    named = (DARK if dark else LIGHT) | changes(dark=dark)
    named |= {f"s{step}": colour for step, colour in enumerate(scale)}
    named |= {f"t{step}": text_on(colour) for step, colour in enumerate(scale)}
    named |= {f"a{step}": colour for step, colour in enumerate(ages(dark=dark))}
    named |= {f"m{step}": colour for step, colour in enumerate(methods(dark=dark))}
    return "".join(f"--{name}:{colour};" for name, colour in named.items())


def _gamma(channel: float) -> float:
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
