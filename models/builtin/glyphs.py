"""Letters and symbols, rendered from the fonts that ship with matplotlib and augmented in batches.

Digits never appear: every numeric character, every character that decomposes to one and every
character drawn like one is left out, so that a digits benchmark stays unseen.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# The remaining fonts either map code points to something else (cmex10, cmmi10, cmsy10), hold only
# private characters (STIXNonUni) or draw place-holder boxes (LastResort).
_FONT_PATTERNS = (
    "DejaVu*.ttf",
    "STIXGeneral*.ttf",
    "cmr10.ttf",
    "cmb10.ttf",
    "cmss10.ttf",
    "cmti10.ttf",
    "cmtt10.ttf",
)
_COMPUTER_MODERN_LAST = 0x7A  # above "z" the Computer Modern fonts leave Unicode
_REFERENCE_FONT = "DejaVuSans.ttf"
# Dots, bars, and pictures that hold numbers.
_DULL_NAMES = (
    "BRAILLE",
    "HEXAGRAM",
    "TETRAGRAM",
    "DOMINO",
    "PLAYING CARD",
    "DIGIT",
    "NUMBER",
    "NUMERAL",
)

TABLE_SIZE = 48  # side of a stored rendering
_INK_SIZE = 36  # longer side of the ink inside it
_FRAME = 32  # side of a training image
_COARSE = 8  # side of the coarse image most glyphs pass through
_GREY_LEVELS = 16


@dataclass(frozen=True)
class GlyphTable:
    """Rendered glyphs.

    Attributes
    ----------
    images : Tensor
        Ink of each rendering, uint8, shape ``(n, TABLE_SIZE, TABLE_SIZE)``, 255 where inked.
    labels : Tensor
        Class of each rendering, int64, shape ``(n,)``.
    weights : Tensor
        Sampling weight of each rendering, float32, shape ``(n,)``.
    classes : int
        Number of classes.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    classes: int


def base_character(char: str) -> str | None:
    """Return the character that names the class of `char`, or None where it is not wanted.

    Styled variants (mathematical alphabets, superscripts) join the class of the plain letter;
    accented letters, ligatures and everything numeric are left out.
    """
    base = unicodedata.normalize("NFKD", char)
    if len(base) != 1 or base.isspace():
        return None
    for candidate in (char, base):
        if unicodedata.category(candidate)[0] not in "LSP":
            return None
        if unicodedata.numeric(candidate, None) is not None:
            return None
        if any(word in unicodedata.name(candidate, "DIGIT") for word in _DULL_NAMES):
            return None
    return base


def render(font: ImageFont.FreeTypeFont, char: str) -> np.ndarray | None:
    """Render one character, scaled so that its longer side fills the ink box.

    Returns
    -------
    ndarray or None
        uint8, shape ``(TABLE_SIZE, TABLE_SIZE)``; None where nothing is drawn.
    """
    left, top, right, bottom = (int(v) for v in font.getbbox(char))
    width, height = right - left, bottom - top
    if min(width, height) < 1 or max(width, height) > 400:
        return None
    canvas = Image.new("L", (width + 8, height + 8))
    ImageDraw.Draw(canvas).text((4 - left, 4 - top), char, fill=255, font=font)
    box = canvas.getbbox()
    if box is None:
        return None
    ink = canvas.crop(box)
    scale = _INK_SIZE / max(ink.size)
    size = (max(2, round(ink.width * scale)), max(2, round(ink.height * scale)))
    ink = ink.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    table = Image.new("L", (TABLE_SIZE, TABLE_SIZE))
    table.paste(ink, ((TABLE_SIZE - size[0]) // 2, (TABLE_SIZE - size[1]) // 2))
    return np.asarray(table)


def _twins(reference: Path, characters: list[str]) -> dict[str, str]:
    """Map each character to the first one drawn identically in the reference font."""
    font = ImageFont.truetype(str(reference), 64)
    charmap = FT2Font(str(reference)).get_charmap()
    first: dict[bytes, str] = {}
    twins: dict[str, str] = {}
    for char in characters:
        image = render(font, char) if ord(char) in charmap else None
        twins[char] = char if image is None else first.setdefault(image.tobytes(), char)
    return twins


def load_glyphs(min_renderings: int = 8) -> GlyphTable:
    """Render every wanted character of every font.

    Parameters
    ----------
    min_renderings : int
        Classes with fewer renderings are dropped.

    Returns
    -------
    GlyphTable
        Look-alike characters (Latin A, Greek Alpha, ...) share a class; those that look like
        a digit are dropped.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = sorted(path for pattern in _FONT_PATTERNS for path in folder.glob(pattern))
    drawn: dict[str, list[np.ndarray]] = {}
    for path in paths:
        font = ImageFont.truetype(str(path), 64)
        for code in sorted(FT2Font(str(path)).get_charmap()):
            if path.name.startswith("cm") and code > _COMPUTER_MODERN_LAST:
                break
            base = base_character(chr(code))
            image = None if base is None else render(font, chr(code))
            if base is not None and image is not None:
                drawn.setdefault(base, []).append(image)
    # The digits come first, so whatever looks like one is mapped onto it and dropped below.
    digits = list("0123456789")
    twins = _twins(folder / _REFERENCE_FONT, digits + sorted(drawn))
    grouped: dict[str, list[np.ndarray]] = {}
    for char in sorted(drawn):
        if twins[char] not in digits:
            grouped.setdefault(twins[char], []).extend(drawn[char])
    kept = [images for images in grouped.values() if len(images) >= min_renderings]
    counts = torch.tensor([len(images) for images in kept])
    labels = torch.repeat_interleave(torch.arange(len(kept)), counts)
    return GlyphTable(
        images=torch.from_numpy(np.stack([image for images in kept for image in images])),
        labels=labels,
        # A class is drawn with the square root of its count: between "each class alike" and
        # "each rendering alike".
        weights=counts.float().rsqrt()[labels],
        classes=len(kept),
    )


def random_affine_grid(
    n: int, size: int, *, degrees: float, scale: tuple[float, float], shear: float, shift: float
) -> Tensor:
    """Draw sampling grids of random affine maps, float32, shape ``(n, size, size, 2)``.

    `scale` is the range of the drawn object's size, with up to 15 % of anisotropy; `shift` is in
    units of half the frame.
    """
    angle = torch.empty(n).uniform_(-degrees, degrees).deg2rad()
    zoom = 1 / torch.empty(n).uniform_(*scale)
    aspect = torch.empty(n).uniform_(-0.15, 0.15).exp()
    slant = torch.empty(n).uniform_(-shear, shear)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = cos * zoom * aspect
    theta[:, 0, 1] = (cos * slant - sin) * zoom
    theta[:, 1, 0] = sin * zoom
    theta[:, 1, 1] = (sin * slant + cos) * zoom / aspect
    theta[:, :, 2] = torch.empty(n, 2).uniform_(-shift, shift)
    return F.affine_grid(theta, [n, 1, size, size], align_corners=False)


def _vary_stroke(ink: Tensor) -> Tensor:
    """Thicken the strokes of four fifths of a batch, in parts; shape ``(n, 1, h, w)`` kept."""
    a, b, c = (round(len(ink) * share) for share in (0.3, 0.6, 0.8))
    return torch.cat(
        [
            F.max_pool2d(ink[:a], 3, 1, 1),
            F.max_pool2d(ink[a:b], 5, 1, 2),
            F.max_pool2d(ink[b:c], 7, 1, 3),
            ink[c:],
        ]
    )


def _coarsen(ink: Tensor) -> Tensor:
    """Count inked pixels in blocks, as small scans do, and enlarge again; shape kept."""
    binary = ((ink - 0.35) * 4 + 0.5).clamp(0, 1)
    coarse = F.adaptive_avg_pool2d(binary, _COARSE)
    coarse = (coarse * _GREY_LEVELS).round() / _GREY_LEVELS
    return F.interpolate(coarse, size=ink.shape[-2:], mode="bilinear", align_corners=False)


def glyph_batch(table: GlyphTable, n: int) -> tuple[Tensor, Tensor]:
    """Draw a batch of augmented glyphs.

    Parameters
    ----------
    table : GlyphTable
        Renderings to draw from.
    n : int
        Batch size.

    Returns
    -------
    images : Tensor
        float32 in [-1, 1], shape ``(n, 3, 32, 32)``.
    labels : Tensor
        int64, shape ``(n,)``.
    """
    index = torch.multinomial(table.weights, n, replacement=True)
    ink = _vary_stroke(table.images[index].unsqueeze(1).float() / 255)
    grid = random_affine_grid(n, _FRAME, degrees=18, scale=(0.85, 1.4), shear=0.3, shift=0.15)
    bend = torch.randn(n, 2, 4, 4) * torch.empty(n, 1, 1, 1).uniform_(0, 0.12)
    bend = F.interpolate(bend, size=(_FRAME, _FRAME), mode="bicubic", align_corners=False)
    ink = F.grid_sample(ink, grid + bend.permute(0, 2, 3, 1), align_corners=False)
    # The stroke widths lie in order along the batch, so the rest is decided per sample at random.
    coarse = torch.rand(n) < 0.65
    ink[coarse] = _coarsen(ink[coarse])
    ink = ink * torch.empty(n, 1, 1, 1).uniform_(0.7, 1.0)
    # Two colours per image; most are white on black, a few inverted, a few of any two colours.
    inverted = (torch.rand(n) < 0.15).view(n, 1, 1, 1)
    images = torch.where(inverted, 1 - ink, ink).expand(n, 3, _FRAME, _FRAME).clone()
    coloured = torch.rand(n) < 0.15
    colours = torch.rand(int(coloured.sum()), 2, 3, 1, 1)
    images[coloured] = colours[:, 0] + (colours[:, 1] - colours[:, 0]) * ink[coloured]
    noisy = torch.rand(n) < 0.3
    images[noisy] += 0.06 * torch.randn_like(images[noisy])
    return images.clamp(0, 1) * 2 - 1, table.labels[index]
