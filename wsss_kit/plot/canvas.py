"""What all figures share: alt text, files, grids of images, legends, and checks of images.

Figures do not pass through pyplot: nothing is registered, so nothing has to be closed.
"""

from __future__ import annotations

import functools
import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_positive, check_range, check_shape
from wsss_kit.classes import Sample, palette
from wsss_kit.files import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
NOTE_SIZE, TITLE_SIZE = 8, 10  # points
MAX_WIDTH = 11.0  # inches; fits a 13-inch screen
BARE = {"frame_on": False, "xticks": (), "yticks": ()}  # axes of an image

Pixels = Tensor | np.ndarray
Images = Sequence[Sample] | Sequence[Tensor]

# Okabe and Ito's colours without black, and a dark wine from Paul Tol's muted set.
DISTINCT_COLOURS = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442"),
    *("#0072B2", "#D55E00", "#CC79A7", "#882255"),
)


@functools.cache
def _figure_class() -> type[Figure]:
    """Define the kit's Figure on first use, because importing the kit loads no matplotlib."""
    from matplotlib.figure import Figure

    class KitFigure(Figure):
        """A figure that a notebook shows with its alt text, whatever the backend.

        It is shown as JPEG of high quality, with colours at full resolution: a PNG of the same
        figure has three times the size, and a notebook has many. Files are PNG.
        """

        def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
            text, file = alt_text(self), io.BytesIO()
            quality = {"quality": 90, "subsampling": 0, "optimize": True}
            self.savefig(file, format="jpeg", dpi=DPI, pil_kwargs=quality)
            data = {"image/jpeg": file.getvalue(), "text/plain": text or repr(self)}
            return data, {"image/jpeg": {"alt": text}}

        def draw(self, renderer: Any) -> None:
            _show_names_as_written(self)
            super().draw(renderer)

    return KitFigure


FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Microsoft YaHei", "SimHei"),
    *("PingFang SC", "Hiragino Sans", "Yu Gothic", "WenQuanYi Zen Hei", "Malgun Gothic"),
    *("Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS"),
)
"""Fonts that are looked for where the usual one lacks a letter."""


def _show_names_as_written(figure: Figure) -> None:
    """Draw ``$`` in names as it is, and find a font for letters that the usual one lacks.

    Letters that no installed font has are drawn as their escapes, and one warning says so.
    """
    from matplotlib.text import Text

    # the texts of ticks are made when they are asked for
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    before = [[text.get_text() for text in axis.get_ticklabels()] for axis in axes]
    lacking, escaped = set(), {}
    for text in figure.findobj(Text):
        written = text.get_text()
        if "$" in written and r"\mathdefault" not in written:  # matplotlib's own, of a log axis
            text.set_parse_math(False)
        if written.isascii() or not (strange := _without_glyph(written, "DejaVu Sans")):
            continue
        helping = [font for font in _installed() if not _without_glyph(strange, font)]
        if helping:
            text.set_fontfamily(["DejaVu Sans", helping[0]])
            continue
        lacking.update(strange)
        escaped[written] = "".join(ascii(c)[1:-1] if c in strange else c for c in written)
        text.set_text(escaped[written])
    if lacking:
        for axis, old in zip(axes, before, strict=True):
            if not escaped.keys().isdisjoint(old):  # an axis writes its ticks again when drawn
                axis.set_ticklabels([escaped.get(name, name) for name in old])
        shown = "".join(sorted(lacking)[:8])
        problem = f"no installed font has {shown}, so figures show such letters as escapes"
        warnings.warn(f"{problem}; install a font such as Noto Sans CJK", stacklevel=2)


@functools.cache
def _without_glyph(text: str, family: str) -> str:
    """Return the letters of a text that a font lacks."""
    from matplotlib import font_manager

    known = font_manager.get_font(font_manager.findfont(family)).get_charmap()
    return "".join(dict.fromkeys(c for c in text if not c.isspace() and ord(c) not in known))


@functools.cache
def _installed() -> list[str]:
    """Return those of ``FONTS`` that are installed."""
    from matplotlib import font_manager

    names = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in names]


def new_figure(width: float, height: float, *, alt: str) -> Figure:
    """Create an empty figure with constrained layout.

    Args:
        width: in inches, cut to 11.
        height: in inches.
        alt: what the figure shows, for readers who cannot see it.

    Returns:
        A matplotlib ``Figure`` outside pyplot.

    Raises:
        ValueError: if ``alt`` is empty, or a size not above 0.

    Example:
        >>> figure = new_figure(30, 2, alt="An empty figure.")
        >>> float(figure.get_figwidth()), alt_text(figure)
        (11.0, 'An empty figure.')
    """
    check_positive("width", width)
    check_positive("height", height)
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt is {alt!r}, expected a sentence that says what the figure shows")
    size = (min(width, MAX_WIDTH), height)
    figure = _figure_class()(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    figure.set_label(alt)
    return figure


def alt_text(figure: Figure) -> str:
    """Return what the figure shows, in words; empty for a figure of another package.

    Example:
        >>> from matplotlib.figure import Figure
        >>> alt_text(Figure())
        ''
    """
    return str(figure.get_label() or "")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, its alt text in the file's ``Description``.

    The file is written beside its target and renamed, so that a reader never meets half of one.

    Args:
        figure: any matplotlib figure.
        path: ends in ``.png``; its folder is created if it does not exist.

    Returns:
        The path.

    Raises:
        ValueError: if ``path`` has another ending.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_figure(new_figure(1, 1, alt="Nothing."), Path(folder) / "new" / "a.png")
        ...     [file.name for file in path.parent.iterdir()]
        ['a.png']
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path is {str(path)!r}, expected a name that ends in .png")
    return write_whole(path, png_bytes(figure))


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG file, its alt text in the file's ``Description``."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Description": alt_text(figure)})
    return file.getvalue()


def class_colours(n_classes: int) -> np.ndarray:
    """Return colours of mask values: distinct ones for up to 8 classes, PASCAL VOC's beyond.

    The eight can be told apart with the usual colour deficiencies (Okabe and Ito 2008); figures
    draw an outline as well.

    Args:
        n_classes: C, background not counted.

    Returns:
        (1 + C, 3) float64 in [0, 1]; the first is background, black.

    Raises:
        ValueError: if ``n_classes`` is no count.

    Example:
        The ninth class changes all colours:

        >>> class_colours(8)[5].round(2).tolist(), class_colours(9)[5].round(2).tolist()
        ([0.0, 0.45, 0.7], [0.5, 0.0, 0.5])
    """
    from matplotlib.colors import to_rgba_array

    check_count("n_classes", n_classes, least=0)
    if n_classes > len(DISTINCT_COLOURS):
        return palette(1 + n_classes) / 255
    return to_rgba_array(["black", *DISTINCT_COLOURS[:n_classes]])[:, :3]


class Panel(NamedTuple):
    """One image of a grid, (H, W, 3) in [0, 1], with a title above and a caption below it."""

    pixels: np.ndarray
    title: str = ""
    caption: str = ""


def panel_width(columns: int, reserved: float = 0.0) -> float:
    """Return the width of one of several panels in a row, in inches; less where there are many."""
    return min(2.2, (MAX_WIDTH - reserved) / columns)


def draw_grid(
    rows: Sequence[Sequence[Panel]], *, alt: str, extra: tuple[float, float] = (0.0, 0.0)
) -> tuple[Figure, np.ndarray]:
    """Draw rows of panels as large as the screen allows, without ticks or frames.

    Args:
        rows: panels from the left; a row may be shorter than the others, or empty.
        alt: the figure's alt text.
        extra: width and height for a colour bar or a legend, in inches.

    Returns:
        The figure and its axes (rows, columns).

    Example:
        >>> _, axes = draw_grid([[Panel(np.zeros((2, 3, 3)))] * 4, []], alt="Black.")
        >>> axes.shape
        (2, 4)
    """
    columns = max(map(len, rows))
    width = panel_width(columns, extra[0])
    heights, height = [], extra[1]
    for row in rows:
        tall = [min(panel.pixels.shape[0] / panel.pixels.shape[1], 2) for panel in row]
        heights.append(width * max(tall, default=1))
        has_title, has_caption = (any(panel[part] for panel in row) for part in (1, 2))
        height += heights[-1] + 0.13 + 0.15 * has_title + 0.33 * has_caption
    figure = new_figure(columns * width + extra[0], height, alt=alt)
    options = {"squeeze": False, "height_ratios": heights, "subplot_kw": BARE}
    axes = figure.subplots(len(rows), columns, **options)
    for row_axes, row in zip(axes, rows, strict=True):
        for ax, panel in zip(row_axes, row, strict=False):
            draw_panel(ax, *panel, wrap=max(8, int(width * 13)))
    return figure, axes


def draw_panel(
    ax: Axes, pixels: np.ndarray, title: str, caption: str = "", *, wrap: int = 22
) -> None:
    """Draw one panel without ticks or frame; its texts have lines of about ``wrap`` characters."""
    ax.imshow(pixels)
    ax.set(**BARE)
    ax.set_title(textwrap.fill(title, wrap), fontsize=TITLE_SIZE)
    ax.set_xlabel(textwrap.fill(caption, int(wrap * 1.2)), fontsize=NOTE_SIZE)


def bare_axis(ax: Axes) -> None:
    """Remove the frame of a chart but for its axes, and add a light grid behind it."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", linewidth=0.5, alpha=0.5)
    ax.set_axisbelow(True)


def draw_legend(
    figure: Figure, entries: Mapping[str, Artist], columns: int, place: str = "upper left"
) -> None:
    """Add a legend outside of the axes: label to what it explains."""
    options: dict[str, Any] = {"loc": f"outside {place}", "ncols": columns, "frameon": False}
    figure.legend(entries.values(), entries, fontsize=NOTE_SIZE, **options)


def image_array(image: Pixels) -> np.ndarray:
    """Convert one image to the array that matplotlib shows.

    Args:
        image: (3, H, W) tensor or (H, W, 3) array, RGB in [0, 1].

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: if the shape or the range is another.

    Example:
        >>> image_array(torch.ones(3, 2, 5)).shape
        (2, 5, 3)
    """
    if isinstance(image, Tensor):
        image = image.detach().cpu().movedim(0, -1).numpy()
    image = np.asarray(image)
    is_rgb = image.ndim == 3 and image.shape[-1] == 3 and image.size > 0
    expected = "a (3, H, W) tensor or (H, W, 3) array; take one image of a batch: images[0]"
    check_shape(is_rgb, "an image, channels last,", image, expected)
    check_range("an image", torch.from_numpy(image), "divide 8-bit values by 255")
    return image.astype(np.float32).clip(0, 1)


def names_and_images(images: Images) -> tuple[list[str], list[np.ndarray]]:
    """Return the names of samples, or "image 1" and so on, and the images as arrays.

    Raises:
        ValueError: if there is no image.

    Example:
        >>> names_and_images([torch.zeros(3, 1, 1)])[0]
        ['image 1']
    """
    if len(images) == 0:
        raise ValueError("there are no images to show, expected at least one")
    names = [getattr(image, "name", None) or f"image {i}" for i, image in enumerate(images, 1)]
    pixels: list[Any] = [getattr(image, "image", image) for image in images]
    return names, [*map(image_array, pixels)]
