"""Images, maps over images, masks side by side, and clusters of images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsss_kit.checks import check_count, check_labels, check_probability, check_range
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.plot.canvas import (
    DISTINCT_COLOURS,
    DPI,
    NOTE_SIZE,
    TITLE_SIZE,
    class_colours,
    mask_list,
    mask_values,
    names_and_pictures,
    panel_grid,
    picture_array,
)
from wsss_kit.plot.regions import (
    enlarged_mask,
    fitted_picture,
    grey,
    mask_styles,
    paint_regions,
    style_legend,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def overlay(
    image: Tensor | np.ndarray,
    cam: Tensor | np.ndarray,
    *,
    cmap: str = "viridis",
    alpha: float = 0.5,
) -> np.ndarray:
    """Blend a map in colour over its image in grey, so that every colour is the map's.

    Args:
        image: (3, H, W) tensor or (H, W, 3) array, RGB in [0, 1].
        cam: (h, w) in [0, 1]; resized to the picture.
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
        raise ValueError(
            f"cmap is {cmap!r}, expected one of matplotlib's colour maps; viridis, cividis and "
            "magma grow evenly in lightness"
        )
    picture = picture_array(image)  # (H, W, 3)
    cam = torch.as_tensor(cam).detach().float().cpu()
    if cam.ndim != 2 or not cam.numel():
        raise ValueError(f"cam has shape {tuple(cam.shape)}, expected (h, w); choose one class")
    check_range("cam", cam, "scale maps first with cam.normalize_cams")
    cam = interpolate(cam[None, None], picture.shape[:2], mode="bilinear", align_corners=False)
    colour = colormaps[cmap](cam[0, 0].clamp(0, 1).numpy())[..., :3]  # (H, W, 3)
    return (alpha * colour + (1 - alpha) * grey(picture)).astype(np.float32)


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
        captions: a line below each picture, in order or by the samples' names.
        columns: pictures in a row.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no sample, labels and classes do not fit, or a caption is missing.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> sample = Sample("a", torch.zeros(3, 8, 8), torch.tensor([0.0, 0.0]))
        >>> alt_text(show_samples([sample], ("cow", "camel")))
        '1 picture with its image-level labels. a: no class.'
    """
    _, pictures = names_and_pictures(samples)
    names = [", ".join(_present(s.labels, classes)) or "no class" for s in samples]
    check_count("columns", columns)
    columns = min(columns, len(samples))
    said = _captions(samples, captions)
    alt = f"{_count(samples)} with {'its' if len(samples) == 1 else 'their'} image-level labels. "
    alt += "; ".join(f"{s.name}: {text}" for s, text in zip(samples, names, strict=True)) + "."
    lines = 1 if captions is None else 2.5
    figure, axes, wrap = panel_grid(pictures, columns, alt=alt, per_row=columns, text_lines=lines)
    for index, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        ax.imshow(picture)
        ax.set_title(textwrap.fill(names[index], wrap), fontsize=TITLE_SIZE)
        if captions is not None:
            ax.set_xlabel(textwrap.fill(said[index], int(wrap * 1.2)), fontsize=NOTE_SIZE)
    return figure


def show_cams(
    images: Sequence[Sample] | Sequence[Tensor],
    cams: Tensor | Sequence[Tensor],
    classes: Sequence[str],
    labels: Tensor | Sequence[Tensor] | None = None,
    *,
    cmap: str = "viridis",
    alpha: float = 0.5,
) -> Figure:
    """Draw one row for each image: the image, then the map of each class that is present.

    Args:
        images: B samples, or pictures as (3, H, W) in [0, 1].
        cams: (B, C, h, w), or one (C, h, w) for each picture, in [0, 1].
        classes: C names.
        labels: (B, C) of 0 and 1; samples bring their own.
        cmap: a matplotlib colour map of even lightness.
        alpha: weight of the map over the picture.

    Returns:
        The figure, with one scale for all maps.

    Raises:
        ValueError: if the numbers of pictures, maps, labels or classes do not fit.

    Example:
        >>> from wsss_kit.plot import alt_text
        >>> sample = Sample("a", torch.zeros(3, 8, 8), torch.tensor([0.0, 1.0]))
        >>> alt_text(show_cams([sample], torch.ones(1, 2, 4, 4), ("cow", "camel")))
        'Class activation maps over 1 picture. a: camel.'
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    names, pictures = names_and_pictures(images)
    if labels is None:
        if not all(isinstance(image, Sample) for image in images):
            raise ValueError("pictures came without labels; give labels (B, C), or samples")
        labels = [sample.labels for sample in images]
    _check_lengths(pictures, cams=cams, labels=labels)
    present = [_present(row, classes) for row in labels]
    rows = "; ".join(
        f"{name}: {', '.join(found) or 'no class'}"
        for name, found in zip(names, present, strict=True)
    )
    alt = f"Class activation maps over {_count(pictures)}. {rows}."
    columns = 1 + max(len(found) for found in present)
    figure, axes, wrap = panel_grid(pictures, columns, alt=alt, extra=(0.8, 0))
    for row, picture, name, found, maps in zip(axes, pictures, names, present, cams, strict=True):
        if len(maps) != len(classes):
            raise ValueError(f"{name} has {len(maps)} maps but there are {len(classes)} classes")
        row[0].imshow(picture)
        row[0].set_title(textwrap.fill(name, wrap), fontsize=TITLE_SIZE)
        for ax, class_name in zip(row[1:], found, strict=False):
            cam = maps[list(classes).index(class_name)]
            ax.imshow(overlay(picture, cam, cmap=cmap, alpha=alpha))
            ax.set_title(textwrap.fill(class_name, wrap), fontsize=TITLE_SIZE)
    scale = ScalarMappable(Normalize(0, 1), cmap)
    shrink = min(0.8, 2.5 / figure.get_figheight())
    figure.colorbar(scale, ax=axes, label="map", shrink=shrink, ticks=[0, 0.5, 1])
    return figure


def show_masks(
    images: Sequence[Sample] | Sequence[Tensor],
    masks: Mapping[str, Any],
    classes: Sequence[str],
    *,
    colours: np.ndarray | None = None,
    alpha: float = 0.6,
) -> Figure:
    """Draw one row for each image: the image, then a column of masks for each method.

    Args:
        images: B samples, or pictures as (3, H, W) in [0, 1].
        masks: title to masks, in the order of the columns; masks are (B, H, W), a sequence of
            (H, W), or a mapping from the samples' names. Background shows the picture in grey,
            255 is hatched.
        classes: C names without background.
        colours: (1 + C, 3) in [0, 1]. None: ``class_colours``, and where only eight of many
            classes occur, eight distinct colours for these.
        alpha: weight of the colours over the picture.

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
        'Masks over 1 picture in the columns CAM. picture 1: CAM shows cow.'
    """
    names, pictures = names_and_pictures(images)
    table = {title: mask_list(title, value, images, names) for title, value in masks.items()}
    found = [
        [mask_values(column[index], picture, len(classes)) for column in table.values()]
        for index, picture in enumerate(pictures)
    ]
    seen = {value for row in found for values in row for value in values}
    colours = _mask_colours(seen, len(classes)) if colours is None else np.asarray(colours)
    if colours.shape != (1 + len(classes), 3):
        raise ValueError(
            f"colours has shape {colours.shape}, expected {(1 + len(classes), 3)}: RGB in [0, 1] "
            "for background and each class"
        )
    check_probability("alpha", alpha)
    styles = mask_styles(sorted(seen), len(classes), colours)
    alt = f"Masks over {_count(pictures)} in the columns {', '.join(table)}."
    for name, row in zip(names, found, strict=True):
        shown = [f"{t} shows {_words(v, classes)}" for t, v in zip(table, row, strict=True)]
        alt += f" {name}: {'; '.join(shown)}."
    figure, axes, wrap = panel_grid(pictures, 1 + len(table), alt=alt, extra=(0.2, 0.5))
    side = int(DPI * figure.get_figwidth() / axes.shape[1])  # about a panel: outlines stay crisp
    for index, (row, picture) in enumerate(zip(axes, pictures, strict=True)):
        row[0].imshow(picture)
        row[0].set_ylabel(textwrap.shorten(names[index], 24, placeholder="…"), fontsize=NOTE_SIZE)
        large = fitted_picture(picture, (side, side))
        for ax, column in zip(row[1:], table.values(), strict=True):
            mask = enlarged_mask(column[index], large.shape[:2])
            ax.imshow(paint_regions(large, mask, styles, alpha))
    for ax, title in zip(axes[0], ("picture", *table), strict=True):
        ax.set_title(textwrap.fill(title, wrap), fontsize=TITLE_SIZE)
    labels = {IGNORE_INDEX: f"ignored ({IGNORE_INDEX})", **dict(enumerate(classes, 1))}
    style_legend(figure, {labels[value]: style for value, style in styles.items()})
    return figure


def show_clusters(rows: Mapping[str, Sequence[Sample] | Sequence[Tensor]]) -> Figure:
    """Draw one row for each cluster: its name and images of it.

    Args:
        rows: name of a cluster -> its pictures, as many as are to be seen; samples, or (3, H, W)
            in [0, 1].

    Returns:
        The figure.

    Raises:
        ValueError: if there is no cluster, or none with a picture.

    Example:
        >>> show_clusters({"red boat": [torch.zeros(3, 8, 8)]}).get_label()
        'Pictures of clusters, a row each: red boat, 1 picture.'
    """
    columns = max((len(pictures) for pictures in rows.values()), default=0)
    if not columns:
        raise ValueError(f"rows has {len(rows)} clusters and no picture, expected at least one")
    found = {
        name: names_and_pictures(pictures)[1] if len(pictures) else []
        for name, pictures in rows.items()
    }
    filler = next(pictures[0] for pictures in found.values() if pictures)
    every = [
        picture
        for pictures in found.values()
        for picture in [*pictures, *[filler] * (columns - len(pictures))]
    ]
    counts = (f"{n}, {len(p)} picture{'s' * (len(p) != 1)}" for n, p in found.items())
    alt = f"Pictures of clusters, a row each: {'; '.join(counts)}."
    figure, axes, _ = panel_grid(every, columns, alt=alt, per_row=columns, text_lines=0.3)
    for row, (name, pictures) in zip(axes, found.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=False):
            ax.imshow(picture)
        wrapped = textwrap.fill(name, 14)
        row[0].set_ylabel(wrapped, fontsize=TITLE_SIZE, rotation=0, ha="right", va="center")
    return figure


def _mask_colours(seen: set[int], n_classes: int) -> np.ndarray:
    """Return colours of all classes; distinct ones if no more than eight occur in the figure."""
    occurring = sorted(seen - {IGNORE_INDEX})
    colours = class_colours(n_classes)
    if n_classes > len(DISTINCT_COLOURS) >= len(occurring):
        colours[occurring] = class_colours(len(occurring))[1:]
    return colours


def _words(values: set[int], classes: Sequence[str]) -> str:
    """List the classes among mask values in words."""
    return ", ".join(classes[v - 1] for v in sorted(values - {IGNORE_INDEX})) or "background only"


def _present(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the names of the positive labels of one image."""
    if len(labels) != len(classes):
        raise ValueError(f"labels holds {len(labels)} values but there are {len(classes)} classes")
    check_labels(labels)
    return [name for name, label in zip(classes, labels.tolist(), strict=True) if label]


def _captions(
    samples: Sequence[Sample], captions: Sequence[str] | Mapping[str, str] | None
) -> list[str]:
    """Return one caption for each sample, in their order; nothing for None."""
    if captions is None:
        return []
    if not isinstance(captions, Mapping):
        _check_lengths(samples, captions=captions)
        return list(captions)
    missing = [sample.name for sample in samples if sample.name not in captions]
    if missing:
        raise ValueError(f"there is no caption for {missing[0]!r}; add one, or give none at all")
    return [captions[sample.name] for sample in samples]


def _count(pictures: Sequence[Any]) -> str:
    return "1 picture" if len(pictures) == 1 else f"{len(pictures)} pictures"


def _check_lengths(pictures: Sequence[Any], **others: Sequence[Any]) -> None:
    """Raise ``ValueError`` if an argument does not hold one entry for each image."""
    for name, values in others.items():
        if len(values) != len(pictures):
            raise ValueError(
                f"{name} has {len(values)} entries for {len(pictures)} pictures; give one for each"
            )
