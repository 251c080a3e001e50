"""Rows and columns of pictures: the parts that the figures of ``plot`` are put together from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wsss_kit.checks import check_range
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.plot.canvas import MAX_WIDTH, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_WIDTH = 2.2  # inches, less where many columns share the width
LARGEST_DRAWN = 256
"""Pixels of the longer side up to which pictures pass as drawn, and figures as 256 colours."""
IGNORED = {"facecolor": "#d0d0d0", "edgecolor": "#505050", "hatch": "////"}


def picture_array(image: Tensor | np.ndarray) -> np.ndarray:
    """A picture as matplotlib takes it.

    Args:
        image: (3, H, W) tensor or (H, W, 3) array, RGB in [0, 1].

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: if the shape or the range is another.

    Example:
        >>> picture_array(torch.ones(3, 2, 5)).shape
        (2, 5, 3)
    """
    if isinstance(image, Tensor):
        image = image.detach().cpu().movedim(0, -1).numpy()
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(
            "a picture is no (3, H, W) tensor or (H, W, 3) array in RGB but, channels last, "
            f"{image.shape}; take one picture of a batch with images[0]"
        )
    advice = "divide 8-bit values by 255, and undo any normalisation"
    check_range("a picture", torch.from_numpy(image), advice)
    return image.astype(np.float32).clip(0, 1)


def grey(picture: np.ndarray) -> np.ndarray:
    """A picture in grey: (H, W, 3) to (H, W, 3), by the usual weights of lightness.

    Example:
        >>> grey(np.array([[[0.0, 1.0, 0.0]]])).round(3).tolist()
        [[[0.587, 0.587, 0.587]]]
    """
    lightness = picture @ np.array([0.299, 0.587, 0.114])
    return np.repeat(lightness[..., None], 3, -1)


def names_and_pictures(
    images: Sequence[Sample] | Sequence[Tensor],
) -> tuple[list[str], list[np.ndarray]]:
    """The names of samples, or "picture 1" and so on, and the pictures as arrays.

    Raises:
        ValueError: if there is no picture.

    Example:
        >>> names_and_pictures([torch.zeros(3, 1, 1)])[0]
        ['picture 1']
    """
    if len(images) == 0:
        raise ValueError("there are no pictures to show, expected at least one")
    names = [
        image.name if isinstance(image, Sample) else f"picture {number}"
        for number, image in enumerate(images, 1)
    ]
    arrays = [picture_array(getattr(image, "image", image)) for image in images]
    return names, arrays


def panel_grid(
    pictures: Sequence[np.ndarray],
    columns: int,
    *,
    alt: str,
    per_row: int = 1,
    text_lines: float = 1,
    extra: tuple[float, float] = (0.0, 0.0),
) -> tuple[Figure, np.ndarray, int]:
    """A figure with panels as large as the screen allows, without ticks or frames.

    Args:
        pictures: what will be shown, for the panels' proportions.
        columns: panels in a row.
        alt: the figure's alt text.
        per_row: pictures in a row; the other panels show something else about them.
        text_lines: lines of text beside each panel's height.
        extra: width and height for a colour bar or a legend, in inches.

    Returns:
        The figure, its axes (rows, columns), and how many characters of a title fit on a panel.

    Example:
        >>> _, axes, _ = panel_grid([np.zeros((2, 3, 3))], 4, alt="Empty.")
        >>> axes.shape
        (1, 4)
    """
    width = min(PANEL_WIDTH, (MAX_WIDTH - extra[0]) / columns)
    tall = [min(picture.shape[0] / picture.shape[1], 2) for picture in pictures]
    heights = [width * max(tall[i : i + per_row]) for i in range(0, len(tall), per_row)]
    height = sum(heights) + len(heights) * (0.22 * text_lines + 0.06) + extra[1]
    figure = new_figure(columns * width + extra[0], height, alt=alt)
    figure.photographs = max(max(picture.shape[:2]) for picture in pictures) > LARGEST_DRAWN
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, axes, max(8, int(width * 13))


def mask_values(mask: Tensor | np.ndarray, picture: np.ndarray, n_classes: int) -> set[int]:
    """The values of a mask other than background, after a look at its size and range.

    Args:
        mask: (H, W) integers.
        picture: (H, W, 3), the picture it belongs to.
        n_classes: C.

    Returns:
        Values among 1 to C and 255.

    Raises:
        ValueError: if the mask has another size, or a value outside the classes.

    Example:
        >>> mask_values(torch.tensor([[0, 2, 255]]), np.zeros((1, 3, 3)), 2) == {2, 255}
        True
    """
    if tuple(mask.shape) != picture.shape[:2]:
        raise ValueError(
            f"a mask has shape {tuple(mask.shape)} but its picture {picture.shape[:2]}; "
            "make masks at the size of the picture"
        )
    values = {int(value) for value in np.unique(torch.as_tensor(mask).cpu())} - {0}
    outside = {value for value in values if not 0 <= value <= n_classes} - {IGNORE_INDEX}
    if outside:
        raise ValueError(
            f"a mask holds {min(outside)}, expected 0 to {n_classes} or {IGNORE_INDEX}; "
            "check the class list"
        )
    return values


def paint_mask(
    ax: Axes, picture: np.ndarray, mask: Tensor | np.ndarray, colours: np.ndarray, alpha: float
) -> None:
    """Draw a mask over its picture in grey: colour and outline for classes, hatches for 255.

    Args:
        ax: where to draw.
        picture: (H, W, 3) in [0, 1].
        mask: (H, W) integers.
        colours: (1 + C, 3) in [0, 1].
        alpha: weight of the colours.
    """
    mask = torch.as_tensor(mask).cpu().numpy()
    shown = grey(picture)
    values = [int(value) for value in np.unique(mask) if value != 0]
    for value in values:
        if value != IGNORE_INDEX:
            inside = mask == value
            shown[inside] = (1 - alpha) * shown[inside] + alpha * colours[value]
    ax.imshow(shown)
    for value in values:
        _outline(ax, mask == value, ignored=value == IGNORE_INDEX)


def _outline(ax: Axes, inside: np.ndarray, *, ignored: bool) -> None:
    """A dark line in a light one around a region; an ignored region is hatched instead."""
    H, W = inside.shape
    if ignored:
        region = np.pad(inside.astype(float), 1)  # the area reaches the picture's edge
        style = {"colors": [IGNORED["facecolor"]], "hatches": [IGNORED["hatch"]]}
        ax.contourf(np.arange(-1, W + 1), np.arange(-1, H + 1), region, [0.5, 1.5], **style)
    elif not inside.all() and min(H, W) > 1:  # contours need two rows, two columns and a change
        ax.contour(inside, [0.5], colors="white", linewidths=2.4)
        ax.contour(inside, [0.5], colors="black", linewidths=1)
    ax.set(xlim=(-0.5, W - 0.5), ylim=(H - 0.5, -0.5))


def mask_legend(
    figure: Figure, values: set[int], classes: Sequence[str], colours: np.ndarray
) -> None:
    """A legend below the figure for the values that occur in its masks."""
    from matplotlib.patches import Patch

    patches: list[Any] = [
        Patch(facecolor=colours[value], edgecolor="black", label=classes[value - 1])
        for value in sorted(values - {IGNORE_INDEX})
    ]
    if IGNORE_INDEX in values:
        patches.append(Patch(**IGNORED, label=f"ignored ({IGNORE_INDEX})"))
    if patches:
        columns = min(len(patches), max(2, int(figure.get_figwidth() / 1.5)))
        figure.legend(
            handles=patches, loc="outside lower center", ncols=columns, fontsize=9, frameon=False
        )


def mask_list(
    title: str, masks: Any, images: Sequence[Sample] | Sequence[Tensor], names: Sequence[str]
) -> list[Any]:
    """The masks of one method in the order of the pictures; a mapping goes by samples' names.

    Args:
        title: the method, for errors.
        masks: (B, H, W), a sequence of (H, W), or a mapping from names.
        images: B samples or pictures.
        names: B names.

    Returns:
        B masks.

    Raises:
        ValueError: if a mask is missing, or names are needed and there are none.

    Example:
        >>> mask_list("CAM", torch.zeros(2, 1, 1), torch.zeros(2, 3, 1, 1), ["a", "b"])
        [tensor([[0.]]), tensor([[0.]])]
    """
    if isinstance(masks, Mapping):
        if not all(isinstance(image, Sample) for image in images):
            raise ValueError(
                f"{title!r} gives masks by name but the pictures have no names; show samples, "
                "or give the masks in the order of the pictures"
            )
        missing = [name for name in names if name not in masks]
        if missing:
            raise ValueError(f"{title!r} has no mask for {missing[0]!r}; make one or leave it out")
        return [masks[name] for name in names]
    if len(masks) != len(names):
        raise ValueError(
            f"{title!r} has {len(masks)} masks for {len(names)} pictures; give one for each"
        )
    return list(masks)
