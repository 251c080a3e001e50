"""Static versions of the widgets: what each shows, as a figure that needs no kernel."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.classes import Sample
from wsss_kit.evaluation import ERROR_KINDS, Report, error_map
from wsss_kit.plot.canvas import (
    MAX_WIDTH,
    NOTE_SIZE,
    TITLE_SIZE,
    mask_list,
    mask_values,
    names_and_pictures,
    new_figure,
    panel_grid,
)
from wsss_kit.plot.figures import overlay
from wsss_kit.plot.regions import (
    ERROR_STYLES,
    Style,
    fitted_picture,
    paint_errors,
    paint_mask_named,
    paint_named,
    style_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 288
"""Pixels of the longer side at which regions are painted, so that hatches stay visible."""
_MOST_BARS = 16


def show_stages(
    image: Sample | Tensor,
    maps: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    classes: Sequence[str],
    *,
    error: Tensor | None = None,
) -> Figure:
    """Draw the stages of one image in a row: image, maps of one class, masks, kinds of error.

    Args:
        image: a sample, whose name becomes the title, or (3, H, W) in [0, 1].
        maps: title to (H, W) in [0, 1].
        masks: title to (H, W) integers.
        classes: C names.
        error: (H, W) from `error_map`, if the truth is known.

    Returns:
        The figure.

    Raises:
        ValueError: if a size does not fit, or a mask holds a value outside the classes.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> mask = torch.tensor([[0, 1], [0, 1]])
        >>> figure = show_stages(torch.zeros(3, 2, 2), {"map": mask.float()}, {"mask": mask}, ["a"])
        >>> alt_text(figure)
        'picture 1 in the steps picture, map, mask.'
    """
    (name,), (picture,) = names_and_pictures([image])
    steps = ["picture", *maps, *masks, *(["error"] if error is not None else [])]
    for mask in masks.values():
        mask_values(mask, picture, len(classes))
    alt = f"{name} in the steps {', '.join(steps)}."
    figure, axes, wrap = panel_grid([picture], len(steps), alt=alt, extra=(0.0, 0.45))
    panels = [picture, *(overlay(picture, cam) for cam in maps.values())]
    large = fitted_picture(picture, (_SIDE, _SIDE))
    panels += [paint_mask_named(large, mask, classes) for mask in masks.values()]
    if error is not None:
        panels.append(paint_errors(large, error))
        style_legend(figure, ERROR_STYLES)
    for ax, title, panel in zip(axes[0], steps, panels, strict=True):
        ax.imshow(panel)
        ax.set_title(textwrap.fill(title, wrap), fontsize=TITLE_SIZE)
    figure.suptitle(name, fontsize=TITLE_SIZE)
    return figure


def show_words(
    image: Sample | Tensor, cam: Tensor, claims: Tensor, probs: Tensor, words: Sequence[str]
) -> Figure:
    """Draw how prompts compete for one image: the map, the winner of each cell, probabilities.

    Args:
        image: a sample, whose name becomes the title, or (3, H, W) in [0, 1].
        cam: (H, W) in [0, 1], the map of the class asked about.
        claims: (h, w) integers, the index of the word that claims each cell.
        probs: (T,) of the whole picture; sums to 1.
        words: T words, the classes present first.

    Returns:
        The figure.

    Raises:
        ValueError: if the numbers of words do not fit.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> image, half = torch.zeros(3, 4, 4), torch.tensor([0.5, 0.5])
        >>> figure = show_words(image, torch.zeros(4, 4), torch.tensor([[0, 1]]), half, ["a", "b"])
        >>> alt_text(figure)
        'picture 1: map, cells by the word that claims them (a 50 %, b 50 %), probabilities: \
a 50 %, b 50 %.'
    """
    (name,), (picture,) = names_and_pictures([image])
    if len(probs) != len(words) or int(claims.max()) >= len(words):
        raise ValueError(
            f"there are {len(words)} words, {len(probs)} probabilities and claims up to "
            f"{int(claims.max())}, expected one probability a word and claims below their number"
        )
    counts = torch.bincount(claims.flatten(), minlength=len(words)) / claims.numel()
    said = ", ".join(f"{w} {100 * s:.0f} %" for w, s in zip(words, counts, strict=True) if s > 0)
    order = probs.argsort(descending=True).tolist()[:_MOST_BARS]
    believed = ", ".join(f"{words[t]} {100 * probs[t]:.0f} %" for t in order[:3])
    alt = f"{name}: map, cells by the word that claims them ({said}), probabilities: {believed}."
    height = 0.9 + max(2.4, 0.2 * len(order))
    figure = new_figure(MAX_WIDTH, height, alt=alt)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.2])
    shown = {
        "map": overlay(picture, cam),
        "claims": painted_claims(picture, claims, words, _SIDE),
    }
    for ax, (title, panel) in zip(axes, shown.items(), strict=False):
        ax.imshow(panel)
        _bare(ax, title)
    places = np.arange(len(order))
    axes[2].barh(places, [100 * float(probs[t]) for t in order], color="#777", edgecolor="black")
    axes[2].set_yticks(places, [words[t] for t in order], fontsize=NOTE_SIZE)
    axes[2].invert_yaxis()
    axes[2].set_xlabel("probability in percent", fontsize=NOTE_SIZE)
    axes[2].spines[["top", "right"]].set_visible(False)
    figure.suptitle(name, fontsize=TITLE_SIZE)
    return figure


def show_errors(
    images: Sequence[Sample] | Sequence[Tensor],
    predicted: Any,
    target: Any,
    report: Report,
    *,
    columns: int = 3,
) -> Figure:
    """Draw the lost IoU of each class by kind of error as bars, and error maps of images.

    Args:
        images: B samples, or pictures as (3, H, W) in [0, 1]: the worst ones, say.
        predicted: (B, H, W), a sequence of (H, W), or a mapping from the samples' names.
        target: the same, ground truth.
        report: from `evaluate`, over the masks of a whole data set.
        columns: pictures in a row.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no picture, or masks and pictures do not fit.

    Example:
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> from wsss_kit.plot import alt_text
        >>> truth, found = {"a": torch.tensor([[0, 1]])}, {"a": torch.tensor([[0, 0]])}
        >>> protocol = Protocol("one picture", "val")
        >>> report = evaluate(found, truth, classes=("cow",), protocol=protocol, boundary=0)
        >>> sample = Sample("a", torch.zeros(3, 1, 2), torch.ones(1))
        >>> alt_text(show_errors([sample], found, truth, report))
        'What each kind of error takes from the IoU, in percent. background: missed 50; cow: \
missed 100. Error maps of a.'
    """
    check_count("columns", columns)
    names, pictures = names_and_pictures(images)
    found = mask_list("predicted", predicted, images, names)
    truth = mask_list("target", target, images, names)
    shares = 100 * np.nan_to_num(report.error_shares)
    said = "; ".join(
        f"{name}: {', '.join(f'{k} {v:.0f}' for k, v in _parts(row) if v >= 0.5) or 'nothing'}"
        for name, row in zip(report.classes, shares, strict=True)
    )
    alt = f"What each kind of error takes from the IoU, in percent. {said}. "
    alt += f"Error maps of {', '.join(names)}."
    rows = -(-len(pictures) // columns)
    height = max(0.8 + 0.26 * len(report.classes), 2.2 * rows) + 0.7
    figure = new_figure(MAX_WIDTH, height, alt=alt)
    grid = figure.add_gridspec(rows, 1 + columns, width_ratios=[1.6, *[1] * columns])
    _error_bars(figure.add_subplot(grid[:, 0]), report)
    for i, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        ax = figure.add_subplot(grid[i // columns, 1 + i % columns])
        large = fitted_picture(picture, (_SIDE, _SIDE))
        ax.imshow(paint_errors(large, error_map(found[i], truth[i])))
        iou = report.image_iou.get(name)
        _bare(ax, textwrap.fill(name if iou is None else f"{name}: {100 * iou:.0f}", 22))
    style_legend(figure, ERROR_STYLES)
    return figure


def _error_bars(ax: Axes, report: Report) -> None:
    """Draw stacked bars: what each kind of error takes from each class's IoU."""
    left, places = np.zeros(len(report.classes)), np.arange(len(report.classes))
    for kind, column in zip(ERROR_KINDS, 100 * np.nan_to_num(report.error_shares).T, strict=True):
        style = ERROR_STYLES[kind]
        look = {"color": style.colour, "hatch": style.hatch, "edgecolor": "black"}
        ax.barh(places, column, left=left, linewidth=0.6, **look)
        left += column
    ax.set_yticks(places, report.classes, fontsize=NOTE_SIZE)
    ax.invert_yaxis()
    ax.set(xlim=(0, 100))
    ax.set_xlabel("lost of 100 % IoU", fontsize=NOTE_SIZE)
    ax.spines[["top", "right"]].set_visible(False)


def _parts(row: np.ndarray) -> list[tuple[str, float]]:
    return list(zip(ERROR_KINDS, row.tolist(), strict=True))


def painted_claims(
    picture: np.ndarray, claims: Tensor, words: Sequence[str], side: int, alpha: float = 0.6
) -> np.ndarray:
    """Paint each cell in the colour of the prompt that wins it (`claim_styles`), with names.

    Args:
        picture: (H, W, 3) in [0, 1].
        claims: (h, w) integers, indices into the words.
        words: T words.
        side: pixels of the longer side of the result.
        alpha: weight of the colours.

    Returns:
        (h', w', 3) float32 in [0, 1].
    """
    names = {t: words[t] for t in claims.unique().tolist()}
    large = fitted_picture(picture, (side, side))
    return paint_named(large, claims, claim_styles(len(words)), names, alpha)


def claim_styles(n_words: int) -> dict[int, Style]:
    """Return colours of prompts, far apart for neighbours in the list.

    Example:
        >>> len({style.colour for style in claim_styles(13).values()})
        13
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = (colormaps["cividis"]((t * 0.618) % 1.0) for t in range(n_words))
    return {t: Style(to_hex(shade)) for t, shade in enumerate(shades)}


def _bare(ax: Axes, title: str) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=TITLE_SIZE)
