"""Train a segmenter on pseudo masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wsss_kit.checks import check_count, check_samples, chosen_device
from wsss_kit.classes import Sample, classes_of
from wsss_kit.classifier.backbones import warn_of_random_weights
from wsss_kit.segmentation.networks import build_network
from wsss_kit.segmentation.segmenter import Segmenter


def train_segmenter(
    samples: Sequence[Sample],
    masks: Mapping[str, Tensor],
    *,
    network: str | nn.Module = "small",
    backbone: str | nn.Module | None = None,
    weights: str | Path | None = None,
    preset: str | None = None,
    taught_by: str = "not stated",
    iterations: int | None = None,
    weight_decay: float | None = None,
    scales: Sequence[float] | None = None,
    loss: str | None = None,
    seed: int = 0,
    device: str = "auto",
    **training: Any,
) -> Segmenter:
    """Train a network on masks, pseudo or drawn; pixels of 255 are ignored.

    Masks whose doubtful pixels are 255 (``min_confidence`` of the recipes) make this CLIP-ES's
    confidence-guided training.

    Args:
        samples: images; their ``classes``, if they have them, name the mask's values.
        masks: image name to (H, W) int64, class c as c + 1.
        network: one of ``NETWORKS``, or a module (B, 3, H, W) -> (B, K, h, w).
        backbone: see `build_network`.
        weights: see `build_network`.
        preset: one of ``PRESETS``; None for ``"small"``, or ``"deeplab"`` for the DeepLabs.
        taught_by: what the masks are, in words, for the card.
        iterations: steps, instead of ``epochs``; this and the next arguments take the preset's
            value where they are None.
        weight_decay: of the optimiser.
        scales: factors of which an image is resized by one before it is cropped.
        loss: ``"plain"``, or ``"balanced"`` between background and objects, which keeps a start
            from ImageNet's weights from learning background alone.
        seed: of new weights, order and views.
        device: where to train a named network.
        **training: arguments of `Learner.fit`: ``epochs``, ``batch_size``, ``accumulate`` and so
            on. Images of several sizes need a ``crop``.

    Returns:
        A `Segmenter` in evaluation mode, with ``losses_``, the mean of every pass.

    Raises:
        ValueError: if an image has no mask or one of another size or with a value that is no
            class, sizes differ without a crop, a number is out of its range, or the checkpoint is
            of another run.
        Diverged: if the loss is no number, or far above where it began.

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(2, split="train")
        >>> net = train_segmenter(world, world.masks, epochs=1, device="cpu", progress=False)
        >>> tuple(net(world[0].image[None]).shape), net.classes[0]
        ((1, 9, 96, 96), 'boat')
    """
    check_samples(samples)
    check_count("seed", seed, least=0)
    if preset is None:
        preset = "deeplab" if network == "deeplab_v2" else "small"
    classes, names = classes_of(samples), {"network": network, "backbone": backbone}
    if isinstance(network, str) and backbone is not None:
        warn_of_random_weights("the segmenter", backbone, weights)
    net = build_network(network, 1 + len(classes), backbone=backbone, weights=weights, seed=seed)
    for part, value in names.items():
        names[part] = type(value).__name__ if isinstance(value, nn.Module) else value
    segmenter = Segmenter(net, classes, **names, taught_by=taught_by, preset=preset)
    if isinstance(network, str):
        segmenter.to(chosen_device(device))
    given = {"iterations": iterations, "weight_decay": weight_decay, "scales": scales, "loss": loss}
    return segmenter.fit(samples, masks, seed=seed, **given, **training)
