"""What every figure of the kit shares: it shows itself, carries alt text and saves whole files.

Figures do not pass through pyplot: nothing is registered, so nothing has to be closed.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_kit.checks import check_count, check_positive
from wsss_kit.classes import palette
from wsss_kit.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

DPI = 100
NOTE_SIZE, TITLE_SIZE = 8, 10  # points
MAX_WIDTH = 11.0  # inches; fits a 13-inch screen

# Okabe and Ito's colours without black, and a dark wine from Paul Tol's muted set.
DISTINCT_COLOURS = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442"),
    *("#0072B2", "#D55E00", "#CC79A7", "#882255"),
)


@functools.cache
def _figure_class() -> type[Figure]:
    """The kit's Figure; made on first use, because importing the kit loads no matplotlib."""
    from matplotlib.figure import Figure

    class KitFigure(Figure):
        """A figure that a notebook shows with its alt text, whatever the backend.

        As PNG, or as JPEG where it holds photographs: 256 colours are speckles there, and all
        colours as PNG would be megabytes in the notebook.
        """

        photographs = False

        def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
            text = alt_text(self)
            kind, data = "image/png", png_bytes
            if self.photographs:
                kind, data = "image/jpeg", _jpeg_bytes
            return {kind: data(self), "text/plain": text or repr(self)}, {kind: {"alt": text}}

    return KitFigure


def new_figure(width: float, height: float, *, alt: str) -> Figure:
    """An empty figure with constrained layout.

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
    """What the figure shows, in words; empty for a figure that was not made by the kit.

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
        path: ends in ``.png``; its folder is made if need be.

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
    """The figure as a PNG file of 256 colours, a third of the size of one with all of them.

    One that holds photographs keeps all of its colours.

    Args:
        figure: any matplotlib figure.

    Returns:
        The file's bytes, the alt text as its ``Description``.
    """
    from matplotlib import colormaps
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    small, text = io.BytesIO(), PngInfo()
    text.add_itxt("Description", alt_text(figure))
    picture = _drawn(figure)
    if getattr(figure, "photographs", False):
        picture.save(small, format="PNG", optimize=True, pnginfo=text)
        return small.getvalue()
    # the picture's own colours, and those that must not shift: white, black and the colour map's
    own = picture.quantize(222, method=Image.Quantize.MEDIANCUT).getpalette()[: 3 * 222]
    scale = (colormaps["viridis"](np.linspace(0, 1, 32))[:, :3] * 255).round().astype(int)
    colours = Image.new("P", (1, 1))
    colours.putpalette([*own, *scale.ravel().tolist(), 255, 255, 255, 0, 0, 0])
    picture = picture.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
    picture.save(small, format="PNG", optimize=True, pnginfo=text)
    return small.getvalue()


def _drawn(figure: Figure) -> Image.Image:
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=figure.dpi)
    return Image.open(drawn).convert("RGB")


def _jpeg_bytes(figure: Figure) -> bytes:
    """The figure as a JPEG file of high quality, colours at full resolution."""
    small = io.BytesIO()
    _drawn(figure).save(small, format="JPEG", quality=90, subsampling=0, optimize=True)
    return small.getvalue()


def class_colours(n_classes: int) -> np.ndarray:
    """Colours of mask values: distinct ones for up to 8 classes, PASCAL VOC's beyond.

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
    check_count("n_classes", n_classes, least=0)
    if n_classes > len(DISTINCT_COLOURS):
        return palette(1 + n_classes) / 255
    codes = ("#000000", *DISTINCT_COLOURS[:n_classes])
    return np.array([[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in codes]) / 255
