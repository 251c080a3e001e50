"""Paint maps and regions over images pixel by pixel, in milliseconds: fast enough for widgets.

A region speaks by its colour, its hatches, its outline and, where there is room, its name.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import draw_bounding_boxes

from wsss_kit.checks import check_probability, check_range, check_shape
from wsss_kit.classes import IGNORE_INDEX
from wsss_kit.plot.canvas import Pixels, class_colours, draw_legend, image_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Style(NamedTuple):
    """How a region looks: a colour and a hatch, as matplotlib writes them."""

    colour: Any  # a name or RGB in [0, 1]
    hatch: str = ""


ERROR_STYLES = {
    "boundary": Style("#DDDDDD", ".."),
    "missed": Style("#0072B2", "//"),
    "spilled": Style("#E69F00", "\\\\"),
    "confused": Style("#882255", "xx"),
}
"""Style of each of `ERROR_KINDS`, in figures and in widgets; the hatches alone tell them apart."""
_STEP = 8  # pixels from one line of a hatch to the next
SIDE = 288  # pixels of the longer side at which figures paint regions: hatches stay visible


def grey(image: np.ndarray) -> np.ndarray:
    """Convert an image to grey: (H, W, 3) to (H, W, 3), by the usual weights of lightness.

    Example:
        >>> grey(np.array([[[0.0, 1.0, 0.0]]])).round(3).tolist()
        [[[0.587, 0.587, 0.587]]]
    """
    lightness = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat(lightness[..., None], 3, -1)


def overlay(image: Pixels, cam: Pixels, *, cmap: str = "viridis", alpha: float = 0.5) -> np.ndarray:
    """Blend a map in colour over its image in grey, so that every colour is the map's.

    Args:
        image: (3, H, W) tensor or (H, W, 3) array, RGB in [0, 1].
        cam: (h, w) in [0, 1]; resized to the image.
        cmap: a matplotlib colour map, one of even lightness: viridis, cividis, magma.
        alpha: weight of the map, 0 to 1.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: if a shape or range is not as above.

    Example:
        >>> overlay(torch.zeros(3, 4, 6), torch.zeros(2, 3), alpha=1)[0, 0]
        array([0.267004, 0.004874, 0.329415], dtype=float32)
    """
    from matplotlib import colormaps

    check_probability("alpha", alpha)
    if cmap not in colormaps:
        raise ValueError(f"cmap is {cmap!r}, expected a colour map of matplotlib, as viridis")
    array = image_array(image)  # (H, W, 3)
    cam = torch.as_tensor(cam).detach().float().cpu()
    check_shape(cam.ndim == 2 and cam.numel() > 0, "cam", cam, "(h, w); choose one class")
    check_range("cam", cam, "scale maps first with cam.normalize_cams")
    cam = interpolate(cam[None, None], array.shape[:2], mode="bilinear", align_corners=False)
    colour = colormaps[cmap](cam[0, 0].clamp(0, 1).numpy())[..., :3]  # (H, W, 3)
    return (alpha * colour + (1 - alpha) * grey(array)).astype(np.float32)


def fitted(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (height, width) of an image's proportions inside a box.

    Args:
        size: (H, W) of the image.
        box: (height, width).

    Example:
        >>> fitted((96, 96), (300, 400)), fitted((375, 500), (300, 300))
        ((300, 300), (225, 300))
    """
    scale = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fitted_image(image: np.ndarray, box: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Resize an image to the size that a box allows: (H, W, 3) in [0, 1] to (h, w, 3).

    Images shown twice as large or more keep their pixels' edges, so that the figure shows the
    input of the network.

    Example:
        >>> fitted_image(np.array([[[0.0] * 3, [1.0] * 3]]), (40, 4))[:, :, 0].tolist()
        [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    size = fitted(image.shape[:2], box)
    is_small = size[0] >= 2 * image.shape[0]
    method = Image.Resampling.NEAREST if is_small else Image.Resampling.BILINEAR
    return np.asarray(_to_pil(image).resize(size[::-1], method)) / np.float32(255)


def hatching(hatch: str, size: tuple[int, int]) -> np.ndarray:
    """Return where the lines or dots of a hatch lie: (h, w) bool.

    Args:
        hatch: one of those of ``ERROR_STYLES``, as matplotlib writes them.
        size: (h, w).

    Example:
        >>> hatching("//", (2, 8)).astype(int).tolist()
        [[1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 1]]
    """
    y, x = np.ogrid[: size[0], : size[1]]
    rising, falling = (x + y) % _STEP < 2, (x - y) % _STEP < 2
    drawn = {"//": rising, "\\\\": falling, "xx": rising | falling}
    drawn[".."] = (x % _STEP < 2) & (y % _STEP < 2)
    return np.broadcast_to(drawn[hatch], size)


def paint_regions(
    image: np.ndarray,
    values: Pixels,
    styles: Mapping[int, Style],
    alpha: float = 0.6,
    names: Mapping[int, str] | None = None,
) -> np.ndarray:
    """Paint regions over their image in grey: colour, hatches, a dark line in a light one around.

    Args:
        image: (h, w, 3) in [0, 1], the image as large as it is shown.
        values: (H, W) integers; resized to the image.
        styles: value to how it looks; other values show the image.
        alpha: weight of the colours.
        names: value to the text that is written inside its region, if any.

    Returns:
        (h, w, 3) float32 in [0, 1].

    Example:
        >>> values = np.array([[0, 1]])
        >>> paint_regions(np.zeros((1, 2, 3)), values, {1: Style("#FFFFFF")}, 1.0)[0, :, 0].tolist()
        [1.0, 0.0]
    """
    from matplotlib.colors import to_rgb

    small, size = torch.as_tensor(values).cpu().numpy(), image.shape[:2]
    kinds, numbers = np.unique(small, return_inverse=True)
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, small.shape, strict=True))
    values = numbers.reshape(small.shape)[rows[:, None], columns]  # (h, w), without new values
    region_styles = [styles.get(value, Style("black")) for value in kinds.tolist()]  # of K values
    weights = alpha * np.isin(kinds, [*styles])[:, None]  # (K, 1)
    colours = np.array([to_rgb(style.colour) for style in region_styles], np.float32)  # (K, 3)
    shown = (1 - weights).astype(np.float32)[values] * grey(image).astype(np.float32)
    shown += (weights.astype(np.float32) * colours)[values]
    for hatch in {style.hatch for style in region_styles} - {""}:
        hatched = np.array([style.hatch == hatch for style in region_styles])[values]  # (h, w)
        shown[hatched & hatching(hatch, size)] *= 1 - alpha
    right, below = np.diff(values, axis=1) != 0, np.diff(values, axis=0) != 0
    edges = np.pad(right, ((0, 0), (1, 0))) | np.pad(below, ((1, 0), (0, 0)))
    around = np.pad(edges[:, 1:], ((0, 0), (0, 1))) | np.pad(edges[1:], ((0, 1), (0, 0)))
    shown[around] = 1
    shown[edges] = 0
    return write_names(shown, small, names) if names else shown


def mask_styles(values: Sequence[int], colours: np.ndarray) -> dict[int, Style]:
    """Return how the values of a mask look: classes coloured, 255 hatched, background not painted.

    Args:
        values: values of the mask.
        colours: (1 + C, 3) in [0, 1].

    Example:
        >>> mask_styles([0, 255], np.zeros((2, 3)))
        {255: Style(colour='#D0D0D0', hatch='//')}
    """
    styles = {value: Style(colours[value]) for value in values if 0 < value < len(colours)}
    return styles | {IGNORE_INDEX: Style("#D0D0D0", "//")} if IGNORE_INDEX in values else styles


def style_legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    """Add a legend below the figure: label to the style of its regions."""
    from matplotlib.patches import Patch

    patches = {k: Patch(fc=c, hatch=hatch, ec="black") for k, (c, hatch) in styles.items()}
    if patches:
        columns = min(len(patches), max(2, int(figure.get_figwidth() / 1.5)))
        draw_legend(figure, patches, columns, "lower center")


def write_names(pixels: np.ndarray, values: np.ndarray, names: Mapping[int, str]) -> np.ndarray:
    """Write the name of each region of at least 1 % of the image where the region is widest.

    Args:
        pixels: (h, w, 3) in [0, 1].
        values: (H, W) integers; smaller than the pixels is faster.
        names: value to its name.

    Returns:
        (h, w, 3) float32.
    """
    from scipy import ndimage

    image = _to_pil(pixels)
    draw, font = ImageDraw.Draw(image), _font()
    for value, name in names.items():
        inside = values == value
        if inside.mean() < 0.01:
            continue
        depth = np.asarray(ndimage.distance_transform_edt(np.pad(inside, 1)))[1:-1, 1:-1]
        cell = np.array(np.unravel_index(depth.argmax(), depth.shape))[::-1]  # (x, y)
        low, high = np.reshape(draw.textbbox((0, 0), name, font=font, stroke_width=2), (2, 2))
        size, middle = high - low, (cell + 0.5) * image.size / values.shape[::-1]
        corner = np.clip(middle - size / 2, 1, np.maximum(1, image.size - size - 1)) - low
        draw.text(corner.tolist(), name, "black", font, stroke_width=2, stroke_fill="white")
    return np.asarray(image) / np.float32(255)


def paint_mask_named(
    large: np.ndarray, mask: Pixels, classes: Sequence[str], alpha: float = 0.6
) -> np.ndarray:
    """Paint a mask over its image, each region with the name of its class.

    Args:
        large: (h, w, 3) in [0, 1], the image as large as it is shown.
        mask: (H, W) integers.
        classes: C names.
        alpha: weight of the colours.

    Returns:
        (h, w, 3) float32 in [0, 1].
    """
    present = torch.as_tensor(mask).unique().tolist()
    names = {v: classes[v - 1] for v in present if 0 < v <= len(classes)}
    styles = mask_styles(present, class_colours(len(classes)))
    return paint_regions(large, mask, styles, alpha, names)


def frame_cell(image: Tensor, cell: int, grid: tuple[int, int], color: str = "red") -> Tensor:
    """Draw a frame around one cell of a grid over an image.

    Args:
        image: (3, H, W) in [0, 1].
        cell: its number, row by row.
        grid: h, w.
        color: of the frame, one pixel wide.

    Returns:
        A copy, (3, H, W).

    Raises:
        ValueError: if the grid has no such cell.
    """
    (h, w), (H, W) = grid, image.shape[1:]
    if not 0 <= cell < h * w:
        raise ValueError(f"cell is {cell}, expected 0 to {h * w - 1} on a grid of {h} x {w}")
    y, x = divmod(cell, w)
    box = [[x * W // w, y * H // h, (x + 1) * W // w - 1, (y + 1) * H // h - 1]]
    return draw_bounding_boxes(image, torch.tensor(box), colors=color)


def paint_claims(
    large: np.ndarray, claims: Tensor, words: Sequence[str], alpha: float = 0.6
) -> np.ndarray:
    """Paint each cell in the colour of the prompt that wins it, with the prompt's text.

    Args:
        large: (h, w, 3) in [0, 1], the image as large as it is shown.
        claims: (H, W) integers, indices into the prompts.
        words: T prompts; neighbours in the list have colours far apart.
        alpha: weight of the colours.

    Returns:
        (h, w, 3) float32 in [0, 1].
    """
    from matplotlib import colormaps

    present = claims.unique().tolist()
    styles = {t: Style(colormaps["cividis"](t * 0.618 % 1.0)[:3]) for t in present}
    return paint_regions(large, claims, styles, alpha, {t: words[t] for t in present})


def paint_errors(large: np.ndarray, errors: Pixels, alpha: float = 0.7) -> np.ndarray:
    """Paint kinds of error (H, W), values as in `error_map`, over their image: (h, w, 3)."""
    return paint_regions(large, errors, dict(enumerate(ERROR_STYLES.values(), 1)), alpha)


def pixels_png(pixels: np.ndarray) -> bytes:
    """Encode (h, w, 3) in [0, 1] as PNG, fast: about 5 ms, ten times less than the smallest file.

    Example:
        >>> Image.open(io.BytesIO(pixels_png(np.ones((2, 3, 3))))).size
        (3, 2)
    """
    png = io.BytesIO()
    _to_pil(pixels).save(png, "PNG", compress_level=1)
    return png.getvalue()


def css_of(style: Style) -> str:
    """Return the style as a CSS background, for legends and bars on a page.

    Example:
        >>> css_of(Style("#E69F00"))
        '#E69F00'
    """
    line = "rgba(0,0,0,.65) 0 1.5px,transparent 1.5px 6px"
    rising, falling = (f"repeating-linear-gradient({turn}deg,{line})" for turn in (135, 45))
    dots = "radial-gradient(rgba(0,0,0,.65) 1px,transparent 1.5px) 0 0/5px 5px"
    drawn = {"": [], "//": [rising], "\\\\": [falling], "xx": [rising, falling], "..": [dots]}
    return ",".join([*drawn[style.hatch], style.colour])


def _to_pil(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((255 * np.clip(pixels, 0, 1)).round().astype(np.uint8))


_font = functools.cache(lambda: ImageFont.load_default(13))
