"""Images, maps over images, masks side by side, clusters and errors of images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_labels, check_probability, check_shape
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.evaluation import ERROR_KINDS, Report, error_map
from wsss_kit.plot import canvas, regions
from wsss_kit.plot.canvas import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_samples(
    samples: Sequence[Sample],
    classes: Sequence[str],
    captions: Sequence[str] | Mapping[str, str] | None = None,
    *,
    columns: int = 6,
) -> Figure:
    """Draw a contact sheet: images with the names of their classes above.

    Args:
        samples: N samples.
        classes: C names.
        captions: a line below each image, in order or by the samples' names.
        columns: images in a row.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no sample, labels and classes do not fit, or a caption is missing.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> sample = Sample("a", torch.zeros(3, 8, 8), torch.tensor([0.0, 0.0]))
        >>> alt_text(show_samples([sample], ("cow", "camel")))
        '1 image with its image-level labels. a: no class.'
    """
    names, arrays = canvas.names_and_images(samples)
    titles = [", ".join(_present(s.labels, classes)) or "no class" for s in samples]
    check_count("columns", columns)
    captions = [""] * len(samples) if captions is None else captions
    below = in_order("captions", captions, samples, "caption")
    alt = f"{_count(samples)} with {'its' if len(samples) == 1 else 'their'} image-level labels. "
    alt += "; ".join(map(": ".join, zip(names, titles, strict=True))) + "."
    panels = [*map(canvas.Panel, arrays, titles, below)]
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    return canvas.draw_grid(rows, alt=alt)[0]


def show_cams(
    images: Images,
    cams: Tensor | Sequence[Tensor],
    classes: Sequence[str],
    labels: Tensor | Sequence[Tensor] | None = None,
    *,
    cmap: str = "viridis",
    alpha: float = 0.5,
) -> Figure:
    """Draw one row for each image: the image, then the map of each class that is present.

    Args:
        images: B samples, or images as (3, H, W) in [0, 1].
        cams: (B, C, h, w), or one (C, h, w) for each image, in [0, 1].
        classes: C names.
        labels: (B, C) of 0 and 1; samples bring their own.
        cmap: a matplotlib colour map of even lightness.
        alpha: weight of the map over the image.

    Returns:
        The figure, with one scale for all maps.

    Raises:
        ValueError: if the numbers of images, maps, labels or classes do not fit.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> sample = Sample("a", torch.zeros(3, 8, 8), torch.tensor([0.0, 1.0]))
        >>> alt_text(show_cams([sample], torch.ones(1, 2, 4, 4), ("cow", "camel")))
        'Class activation maps over 1 image. a: camel.'
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    names, arrays = canvas.names_and_images(images)
    if labels is None:
        labels = [image.labels for image in images if isinstance(image, Sample)]
        if len(labels) < len(images):
            raise ValueError("images came without labels; give labels (B, C), or samples")
    labels, cams = in_order("labels", labels, images), in_order("cams", cams, images)
    rows, parts = [], []
    for name, array, of_image, row in zip(names, arrays, cams, labels, strict=True):
        shown = _present(row, classes)
        if len(of_image) != len(classes):
            raise ValueError(f"{name} has {len(of_image)} maps for {len(classes)} classes")
        by_class = dict(zip(classes, of_image, strict=True))
        blended = (regions.overlay(array, by_class[c], cmap=cmap, alpha=alpha) for c in shown)
        rows.append([canvas.Panel(array, name), *map(canvas.Panel, blended, shown)])
        parts.append(f"{name}: {', '.join(shown) or 'no class'}")
    alt = f"Class activation maps over {_count(arrays)}. {'; '.join(parts)}."
    figure, axes = canvas.draw_grid(rows, alt=alt, extra=(0.8, 0))
    options = {"shrink": min(0.8, 2.5 / figure.get_figheight()), "ticks": [0, 0.5, 1]}
    figure.colorbar(ScalarMappable(Normalize(0, 1), cmap), ax=axes, label="map", **options)
    return figure


def show_masks(
    images: Images,
    masks: Mapping[str, Any],
    classes: Sequence[str],
    *,
    colours: np.ndarray | None = None,
    alpha: float = 0.6,
) -> Figure:
    """Draw one row for each image: the image, then a column of masks for each method.

    Args:
        images: B samples, or images as (3, H, W) in [0, 1].
        masks: title to masks, in the order of the columns; masks are (B, H, W), a sequence of
            (H, W), or a mapping from the samples' names. Background shows the image in grey,
            255 is hatched.
        classes: C names without background.
        colours: (1 + C, 3) in [0, 1]. None: ``class_colours``, and where only eight of many
            classes occur, eight distinct colours for these.
        alpha: weight of the colours over the image.

    Returns:
        The figure, with a legend of the classes that occur.

    Raises:
        ValueError: if a method has another number of masks, a mask another size, or there are
            other colours than classes.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> mask = torch.tensor([[0, 1], [255, 1]])
        >>> figure = show_masks([torch.zeros(3, 2, 2)], {"CAM": [mask]}, ("cow",))
        >>> alt_text(figure)
        'Masks over 1 image in the columns CAM. image 1: CAM shows cow.'
    """
    names, arrays = canvas.names_and_images(images)
    table = {title: in_order(repr(title), m, images, "mask") for title, m in masks.items()}
    values = [
        [_mask_values(mask, array, len(classes)) for mask in of_image]
        for array, *of_image in zip(arrays, *table.values(), strict=True)
    ]
    seen = set().union(*(of_mask for row in values for of_mask in row))
    if colours is None:
        colours, occurring = canvas.class_colours(len(classes)), sorted(seen - {IGNORE_INDEX})
        if len(classes) > len(canvas.DISTINCT_COLOURS) >= len(occurring):
            colours[occurring] = canvas.class_colours(len(occurring))[1:]
    colours = np.asarray(colours)
    expected = (1 + len(classes), 3)
    check_shape(colours.shape == expected, "colours", colours, f"{expected}: RGB in [0, 1]")
    check_probability("alpha", alpha)
    styles = regions.mask_styles(sorted(seen), colours)
    alt = f"Masks over {_count(arrays)} in the columns {', '.join(table)}."
    # painted at the size of the panel, outlines are crisp
    side = int(canvas.DPI * canvas.panel_width(1 + len(table), 0.2))
    rows = []
    for i, (name, array) in enumerate(zip(names, arrays, strict=True)):
        large = regions.fitted_image(array, (side, side))
        painted = [regions.paint_regions(large, each[i], styles, alpha) for each in table.values()]
        titles = ("image", *table) if i == 0 else [""] * (1 + len(table))
        rows.append([*map(canvas.Panel, (array, *painted), titles)])
        shown = (f"{t} shows {_words(v, classes)}" for t, v in zip(table, values[i], strict=True))
        alt += f" {name}: {'; '.join(shown)}."
    figure, axes = canvas.draw_grid(rows, alt=alt, extra=(0.2, 0.5))
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_ylabel(textwrap.shorten(name, 24, placeholder="…"), fontsize=canvas.NOTE_SIZE)
    labels = {IGNORE_INDEX: f"ignored ({IGNORE_INDEX})", **dict(enumerate(classes, 1))}
    regions.style_legend(figure, {labels[value]: style for value, style in styles.items()})
    return figure


def show_clusters(rows: Mapping[str, Images]) -> Figure:
    """Draw one row for each cluster: its name and images of it.

    Args:
        rows: name of a cluster -> the images of it to show: samples, or (3, H, W) in [0, 1].

    Returns:
        The figure.

    Raises:
        ValueError: if there is no cluster, or none with an image.

    Example:
        >>> show_clusters({"red boat": [torch.zeros(3, 8, 8)]}).get_label()
        'Images of clusters, a row each: red boat, 1 image.'
    """
    if not any(len(images) for images in rows.values()):
        raise ValueError(f"rows has {len(rows)} clusters and no image, expected at least one")
    counts = (f"{name}, {_count(images)}" for name, images in rows.items())
    alt = f"Images of clusters, a row each: {'; '.join(counts)}."
    arrays = (canvas.names_and_images(each)[1] if len(each) else [] for each in rows.values())
    figure, axes = canvas.draw_grid([[*map(canvas.Panel, each)] for each in arrays], alt=alt)
    for ax, name in zip(axes[:, 0], rows, strict=True):
        style = {"rotation": 0, "ha": "right", "va": "center"}
        ax.set_ylabel(textwrap.fill(name, 14), fontsize=canvas.TITLE_SIZE, **style)
    return figure


def show_errors(
    images: Images, predicted: Any, target: Any, report: Report, *, columns: int = 3
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
    masks = in_order("'predicted'", predicted, images, "mask")
    targets = in_order("'target'", target, images, "mask")
    shares = 100 * np.nan_to_num(report.error_shares)  # (S, 4)
    losses = []
    for name, row in zip(report.classes, shares, strict=True):
        parts = (f"{k} {v:.0f}" for k, v in zip(ERROR_KINDS, row, strict=True) if v >= 0.5)
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
    name_bars(ax, report.classes, "lost of 100 % IoU")
    for i, (name, array, mask, truth) in enumerate(zip(names, arrays, masks, targets, strict=True)):
        ax = figure.add_subplot(grid[i // columns, 1 + i % columns])
        painted = regions.paint_errors(regions.fitted_image(array), error_map(mask, truth))
        iou = report.image_iou.get(name)
        canvas.draw_panel(ax, painted, name if iou is None else f"{name}: {100 * iou:.0f}")
    regions.style_legend(figure, regions.ERROR_STYLES)
    return figure


def name_bars(ax: Axes, names: Sequence[str], label: str) -> None:
    """Name horizontal bars from the top down, and the axis below them."""
    ax.set_yticks(range(len(names)), names, fontsize=canvas.NOTE_SIZE)
    ax.invert_yaxis()
    ax.set_xlabel(label, fontsize=canvas.NOTE_SIZE)
    ax.spines[["top", "right"]].set_visible(False)


def _mask_values(mask: Tensor | np.ndarray, image: np.ndarray, n_classes: int) -> set[int]:
    """Check a mask's size and range; return its values other than background: 1 to C and 255."""
    size = image.shape[:2]
    check_shape(tuple(mask.shape) == size, "a mask", mask, f"{size}, the size of its image")
    values = set(np.unique(torch.as_tensor(mask).cpu()).tolist()) - {0}
    outside = values - {*range(1, n_classes + 1), IGNORE_INDEX}
    if outside:
        raise ValueError(f"a mask holds {min(outside)}, not 0 to {n_classes} or {IGNORE_INDEX}")
    return values


def _words(values: set[int], classes: Sequence[str]) -> str:
    """List the classes among mask values in words."""
    return ", ".join(classes[v - 1] for v in sorted(values - {IGNORE_INDEX})) or "background only"


def _present(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the names of the positive labels of one image."""
    if len(labels) != len(classes):
        raise ValueError(f"labels holds {len(labels)} values but there are {len(classes)} classes")
    check_labels(labels)
    return [name for name, label in zip(classes, labels.tolist(), strict=True) if label]


def _count(images: Sequence[Any]) -> str:
    return "1 image" if len(images) == 1 else f"{len(images)} images"


def in_order(title: str, values: Any, images: Images, what: str = "entry") -> list[Any]:
    """Return one value for each image, in their order.

    Args:
        title: whose values they are, for errors.
        values: a sequence in the order of the images, or a mapping from the samples' names.
        images: B samples or images.
        what: what one value is.

    Raises:
        ValueError: if a value is missing, or names are needed and there are none.

    Example:
        >>> in_order("CAM", torch.zeros(2, 1, 1), torch.zeros(2, 3, 1, 1))
        [tensor([[0.]]), tensor([[0.]])]
    """
    if not isinstance(values, Mapping):
        if len(values) != len(images):
            raise ValueError(f"{title} has {len(values)} for {len(images)} images; give one each")
        return list(values)
    names = [image.name for image in images if isinstance(image, Sample)]
    if len(names) < len(images):
        raise ValueError(f"{title} is a mapping but the images have no names; show samples")
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{title} has no {what} for {missing[0]!r}; make one or leave it out")
    return [values[name] for name in names]
