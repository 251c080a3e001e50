"""Static versions of the widgets: what each shows, as a figure that needs no kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count
from wsss_kit.classes import Sample
from wsss_kit.evaluation import ERROR_KINDS, Report, error_map
from wsss_kit.plot import canvas, regions
from wsss_kit.plot.figures import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
        error: (H, W) from `error_map`, if the ground truth is known.

    Returns:
        The figure.

    Raises:
        ValueError: if a size does not fit, or a mask holds a value outside the classes.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> mask = torch.tensor([[0, 1], [0, 1]])
        >>> figure = show_stages(torch.zeros(3, 2, 2), {"map": mask.float()}, {"mask": mask}, ["a"])
        >>> alt_text(figure)
        'image 1 in the steps image, map, mask.'
    """
    (name,), (array,) = canvas.names_and_images([image])
    large = regions.fitted_image(array)
    panels = {"image": array} | {title: overlay(array, cam) for title, cam in maps.items()}
    for title, mask in masks.items():
        canvas.mask_values(mask, array, len(classes))
        panels[title] = regions.paint_mask_named(large, mask, classes)
    if error is not None:
        panels["error"] = regions.paint_errors(large, error)
    row = [canvas.Panel(pixels, title) for title, pixels in panels.items()]
    alt = f"{name} in the steps {', '.join(panels)}."
    figure, _ = canvas.draw_grid([row], alt=alt, extra=(0, 0.45))
    if error is not None:
        regions.style_legend(figure, regions.ERROR_STYLES)
    figure.suptitle(name, fontsize=canvas.TITLE_SIZE)
    return figure


def show_words(
    image: Sample | Tensor, cam: Tensor, claims: Tensor, probs: Tensor, words: Sequence[str]
) -> Figure:
    """Draw how prompts compete for one image: the map, the winner of each cell, probabilities.

    Args:
        image: a sample, whose name becomes the title, or (3, H, W) in [0, 1].
        cam: (H, W) in [0, 1], the map of the class asked about.
        claims: (h, w) integers, the index of the prompt that wins each cell.
        probs: (T,) of the whole image; sums to 1.
        words: T prompts, the classes present first.

    Returns:
        The figure.

    Raises:
        ValueError: if the numbers of prompts do not fit.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> image, half = torch.zeros(3, 4, 4), torch.tensor([0.5, 0.5])
        >>> figure = show_words(image, torch.zeros(4, 4), torch.tensor([[0, 1]]), half, ["a", "b"])
        >>> alt_text(figure)
        'image 1: map, cells by the word that claims them (a 50 %, b 50 %), probabilities: \
a 50 %, b 50 %.'
    """
    (name,), (array,) = canvas.names_and_images([image])
    if len(probs) != len(words) or int(claims.max()) >= len(words):
        counts = f"{len(words)} words, {len(probs)} probabilities and claims up to {claims.max()}"
        raise ValueError(f"there are {counts}, expected T, T and at most T - 1")
    counts = torch.bincount(claims.flatten(), minlength=len(words)) / claims.numel()
    claimed = ", ".join(f"{w} {100 * s:.0f} %" for w, s in zip(words, counts, strict=True) if s > 0)
    order = probs.argsort(descending=True).tolist()[:16]
    believed = ", ".join(f"{words[t]} {100 * probs[t]:.0f} %" for t in order[:3])
    alt = f"{name}: map, cells by the word that claims them ({claimed}), probabilities: {believed}."
    figure = canvas.new_figure(canvas.MAX_WIDTH, 0.9 + max(2.4, 0.2 * len(order)), alt=alt)
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.2])
    canvas.draw_panel(axes[0], overlay(array, cam), "map")
    canvas.draw_panel(axes[1], regions.painted_claims(array, claims, words), "claims")
    percents = 100 * probs[order].detach().cpu().numpy()
    axes[2].barh(range(len(order)), percents, color="#777", edgecolor="black")
    _name_bars(axes[2], [words[t] for t in order], "probability in percent")
    figure.suptitle(name, fontsize=canvas.TITLE_SIZE)
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
        images: B samples, or images as (3, H, W) in [0, 1], such as the worst ones.
        predicted: (B, H, W), a sequence of (H, W), or a mapping from the samples' names.
        target: the same, ground truth.
        report: from `evaluate`, over the masks of a whole data set.
        columns: images in a row.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no image, or masks and images do not fit.

    Example:
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> from wsss_kit.plot import alt_text
        >>> truth, found = {"a": torch.tensor([[0, 1]])}, {"a": torch.tensor([[0, 0]])}
        >>> protocol = Protocol("one image", "val")
        >>> report = evaluate(found, truth, classes=("cow",), protocol=protocol, boundary=0)
        >>> sample = Sample("a", torch.zeros(3, 1, 2), torch.ones(1))
        >>> alt_text(show_errors([sample], found, truth, report))
        'What each kind of error takes from the IoU, in percent. background: missed 50; cow: \
missed 100. Error maps of a.'
    """
    check_count("columns", columns)
    names, arrays = canvas.names_and_images(images)
    masks = canvas.in_order("'predicted'", predicted, images, "mask")
    targets = canvas.in_order("'target'", target, images, "mask")
    shares = 100 * np.nan_to_num(report.error_shares)  # (S, 4)
    losses = []
    for name, row in zip(report.classes, shares, strict=True):
        parts = [f"{k} {v:.0f}" for k, v in zip(ERROR_KINDS, row, strict=True) if v >= 0.5]
        losses.append(f"{name}: {', '.join(parts) or 'nothing'}")
    alt = f"What each kind of error takes from the IoU, in percent. {'; '.join(losses)}. "
    alt += f"Error maps of {', '.join(names)}."
    rows = -(-len(arrays) // columns)
    height = max(0.8 + 0.26 * len(report.classes), 2.2 * rows) + 0.7
    figure = canvas.new_figure(canvas.MAX_WIDTH, height, alt=alt)
    grid = figure.add_gridspec(rows, 1 + columns, width_ratios=[1.6, *[1] * columns])
    ax, starts = figure.add_subplot(grid[:, 0]), np.cumsum(shares, 1) - shares
    for style, lengths, left in zip(regions.ERROR_STYLES.values(), shares.T, starts.T, strict=True):
        look = {"color": style.colour, "hatch": style.hatch, "edgecolor": "black"}
        ax.barh(range(len(lengths)), lengths, left=left, linewidth=0.6, **look)
    ax.set(xlim=(0, 100))
    _name_bars(ax, report.classes, "lost of 100 % IoU")
    for i, (name, array, mask, truth) in enumerate(zip(names, arrays, masks, targets, strict=True)):
        ax = figure.add_subplot(grid[i // columns, 1 + i % columns])
        painted = regions.paint_errors(regions.fitted_image(array), error_map(mask, truth))
        iou = report.image_iou.get(name)
        canvas.draw_panel(ax, painted, name if iou is None else f"{name}: {100 * iou:.0f}")
    regions.style_legend(figure, regions.ERROR_STYLES)
    return figure


def _name_bars(ax: Axes, names: Sequence[str], label: str) -> None:
    """Name horizontal bars from the top down, and the axis below them."""
    ax.set_yticks(range(len(names)), names, fontsize=canvas.NOTE_SIZE)
    ax.invert_yaxis()
    ax.set_xlabel(label, fontsize=canvas.NOTE_SIZE)
    ax.spines[["top", "right"]].set_visible(False)
