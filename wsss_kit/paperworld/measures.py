"""What only the embedded world can tell: where maps lie, which parts and sub-types are found.

And whether a CLIP knows this world: three classification tests on held-out images.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import check_range
from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld import Page, PaperWorld, page
from wsss_kit.paperworld.words import HOME, STUFF, SUBTYPES

PLACES = ("object", "usual background", "other background", "other object")
"""Where the mass of a map may lie."""

PARTS = ("body", "signature part")
"""Names of the values 1 and 2 of `PaperWorld.parts`."""

HELD_OUT_SEED = 9_000
"""World seed of the zero-shot tests' images; no training uses it."""


def mass_shares(maps: Mapping[str, Tensor], world: PaperWorld) -> dict[str, float]:
    """Compute how the mass of all maps of the classes present divides, over all images.

    A CAM that has learned the context lies on its class's home as much as on the object.

    Args:
        maps: name of an image -> (C, H, W) in [0, 1]; maps of absent classes do not count.
        world: whose masks and background kinds count.

    Returns:
        Place -> share in [0, 1], which sum to 1: on an object of the map's class; on the
        background kind that is its home; on any other background, plain paper included; on an
        object of another class. NaN if all maps are zero.

    Raises:
        ValueError: if an image has no maps, or maps of another size or range.

    Example:
        >>> world = PaperWorld(3)
        >>> truth = {n: torch.stack([(world.masks[n] == c + 1).float() for c in range(8)])
        ...          for n in world.names}
        >>> mass_shares(truth, world)["object"]
        1.0
    """
    mass = torch.zeros(len(PLACES), dtype=torch.float64)
    homes = [STUFF.index(HOME[name]) for name in PAPER_CLASSES]
    for sample in world:
        if sample.name not in maps:
            raise ValueError(f"there are no maps for {sample.name!r}; expected some for each")
        shown, mask = maps[sample.name].detach().cpu(), world.masks[sample.name]
        if shown.shape != (shape := (len(PAPER_CLASSES), *mask.shape)):
            problem = f"the maps of {sample.name!r} have shape {tuple(shown.shape)}"
            raise ValueError(f"{problem}, expected {shape}; resize them with cam.upsample")
        check_range(f"the maps of {sample.name!r}", shown, "scale them with cam.normalize_cams")
        stuff = world.stuff[sample.name]
        for c in sample.labels.nonzero().flatten().tolist():
            on_object, at_home = mask == c + 1, stuff == homes[c]
            elsewhere, others = (mask == 0) & ~at_home, (mask != 0) & ~on_object
            for k, place in enumerate((on_object, at_home, elsewhere, others)):
                mass[k] += shown[c][place].double().sum()
    return dict(zip(PLACES, (mass / mass.sum()).tolist(), strict=True))


def part_recall(masks: Mapping[str, Tensor], world: PaperWorld) -> dict[str, float]:
    """Compute the share of each part's pixels that have the right class, over all images.

    Args:
        masks: name of an image -> (H, W) integers, 0 background and c + 1 for class c; other
            values, such as 255, are wrong. Every image of the world has one.
        world: whose parts and ground truth count.

    Returns:
        Name of the part -> recall in [0, 1]; nan for a part that no image shows.

    Raises:
        ValueError: if an image has no mask or one of another size.

    Example:
        >>> world = PaperWorld(3)
        >>> part_recall(world.masks, world)
        {'body': 1.0, 'signature part': 1.0}
    """
    right, shown = torch.zeros(len(PARTS)), torch.zeros(len(PARTS))
    for name in world.names:
        if name not in masks:
            raise ValueError(f"there is no mask for {name!r}; expected one for each of {world!r}")
        truth, parts, mask = world.masks[name], world.parts[name], masks[name]
        if mask.shape != truth.shape:
            problem = f"the mask of {name!r} has shape {tuple(mask.shape)}"
            raise ValueError(f"{problem}, expected {tuple(truth.shape)} as the image")
        for k in range(len(PARTS)):
            part = parts == k + 1
            shown[k] += part.sum()
            right[k] += (mask.to(truth.device) == truth)[part].sum()
    return dict(zip(PARTS, (right / shown).tolist(), strict=True))


def subtype_labels(world: PaperWorld) -> Tensor:
    """Return which sub-types each image shows; to compare with, and to train an upper bound on.

    Args:
        world: M images.

    Returns:
        (M, C * 3) of 0 and 1; column 3 c + j is sub-type j of class c, in the order of
        ``words.SUBTYPES``. An image with two boats of different papers has two ones for boat.

    Example:
        >>> labels = subtype_labels(PaperWorld(2))
        >>> tuple(labels.shape), labels[0].nonzero().flatten().tolist()
        ((2, 24), [15])
    """
    columns = subtype_names()
    labels = torch.zeros(len(world), len(columns))
    for row, name in zip(labels, world.names, strict=True):
        row[[columns.index(f"{style} {parent}") for parent, style in world.subtypes[name]]] = 1
    return labels


def subtype_names() -> tuple[str, ...]:
    """Return what the columns of `subtype_labels` mean.

    Example:
        >>> subtype_names()[:4]
        ('wooden boat', 'red boat', 'striped boat', 'wooden train')
    """
    return tuple(f"{style} {name}" for name in PAPER_CLASSES for style in SUBTYPES[name])


def image_batch(pages: Sequence[Page]) -> Tensor:
    """Stack the images of pages: (B, 3, H, W) float32 RGB in [0, 1]."""
    images = torch.stack([torch.from_numpy(p.drawing.image) for p in pages])
    return images.permute(0, 3, 1, 2).float().div(255)


def zero_shot_accuracy(
    encode_image: Callable[[Tensor], Tensor],
    encode_text: Callable[[list[str]], Tensor],
    *,
    n: int = 800,
    size: int = 96,
) -> dict[str, float]:
    """Compute top-1 accuracies with ``a photo of a {class}`` and ``a photo of {background}``.

    Args:
        encode_image: (B, 3, H, W) RGB in [0, 1] -> (B, D), of any length.
        encode_text: P texts -> (P, D), of any length.
        n: images drawn for each test; those with several classes or bands are left out.
        size: side of the images.

    Returns:
        ``cutouts``: objects on plain paper; ``out_of_context``: one class in a scene, never on its
        home background; ``backgrounds``: one background kind and no object. Each in [0, 1].
    """
    classes = F.normalize(encode_text([f"a photo of a {name}" for name in PAPER_CLASSES]), dim=-1)
    kinds = F.normalize(encode_text([f"a photo of {stuff}" for stuff in STUFF]), dim=-1)
    result = {}
    for test, scene, texts in (
        ("cutouts", "cutout", classes),
        ("out_of_context", "scene", classes),
        ("backgrounds", "background", kinds),
    ):
        pages, targets = [], []
        for i in range(n):
            drawn = page.__wrapped__("val", HELD_OUT_SEED, i, size, 0.0, scene)  # not cached
            answers = [PAPER_CLASSES.index(name) for name in drawn.scene.classes]
            if scene == "background":
                answers = [STUFF.index(band.stuff) for band in drawn.scene.bands]
            if len(answers) == 1:
                pages.append(drawn)
                targets += answers
        batches = [pages[i : i + 100] for i in range(0, len(pages), 100)]
        features = torch.cat([encode_image(image_batch(batch)) for batch in batches])
        guesses = (features @ texts.T).argmax(1).cpu()
        result[test] = (guesses == torch.tensor(targets)).float().mean().item()
    return result
