"""From pseudo masks to a network that needs no label: training, prediction, the papers' recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.backbones import warn_of_random_weights
from wsss_kit.cam import upsample
from wsss_kit.checks import (
    check_count,
    check_images,
    check_labels,
    check_not_nan,
    check_samples,
    check_scales,
    check_seed,
    check_word,
    chosen_device,
)
from wsss_kit.classes import Sample, classes_of
from wsss_kit.crf import crf_of_present, dense_crf
from wsss_kit.engine import batch_norms, for_weights_of
from wsss_kit.methods.base import Learner, Recipe
from wsss_kit.processes import progress as progress_bar
from wsss_kit.segmentation.networks import (
    LOSSES,
    PRESETS,
    balanced_cross_entropy,
    build_network,
    confident_cross_entropy,
    multi_scale_loss,
)
from wsss_kit.views import MaskedImages, mean_colour

Own = nn.Module | None


class Segmenter(Learner):
    """A network with the names of its classes; calling it gives logits at the image's size.

    Args:
        net: images to logits (B, K, h, w), see `build_network`.
        classes: C = K - 1 names.
        network: how the network is called, for the card.
        backbone: how its backbone is called, None for its usual one.
        taught_by: what masks it learned from, in words, for the card.
        preset: one of ``PRESETS``, of a training.
    """

    METHOD, PRESETS = "segmenter", PRESETS
    SAVED = ("network", "backbone", "classes", "taught_by")
    net: Any

    def __init__(
        self,
        net: nn.Module,
        classes: Sequence[str],
        *,
        network: str,
        backbone: str | None = None,
        taught_by: str = "not stated",
        preset: str = "small",
    ) -> None:
        super().__init__()
        check_word("preset", preset, PRESETS)
        self.net, self.classes = net, tuple(classes)
        self.network, self.backbone, self.taught_by = network, backbone, taught_by
        self.preset, self.losses_ = preset, []

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits: (B, 3, H, W) RGB in [0, 1] -> (B, K, H, W), background first."""
        logits = self.net(for_weights_of(self, images))
        return upsample(logits, images.shape[-2:]).to(images.device)

    # -- training ---------------------------------------------------------------------------

    def fit(  # pyrefly: ignore[bad-override]  # masks too
        self, samples: Sequence[Sample], masks: Mapping[str, Tensor], **training: Any
    ) -> Segmenter:
        """Train on masks, pseudo or drawn; pixels of 255 are ignored.

        Args:
            samples: images.
            masks: image name to (H, W) int64, class c as c + 1.
            **training: arguments of `Learner.fit` and values of the preset, see `train_segmenter`.
        """
        if training.get("iterations") is not None and training.get("epochs") is not None:
            raise ValueError("give epochs or iterations, not both")
        if training.get("scales") is not None:
            check_scales(training["scales"])
        return super().fit(samples, masks=masks, **training)

    def values(self, **given: Any) -> dict[str, Any]:
        """Return the preset's values, replaced by the given arguments; epochs or iterations."""
        values = super().values(**given)
        for length, other in (("epochs", "iterations"), ("iterations", "epochs")):
            if given.get(length) is not None:
                values[other] = None
        return values

    def begin(self, samples: Sequence[Sample], recipe: dict[str, Any]) -> None:
        """Check the recipe, and forget the losses of an earlier training."""
        check_word("loss", recipe["loss"], LOSSES)
        if len(recipe["scales"]) and recipe["crop"] is None:
            problem = f"crop is None and scales are {recipe['scales']}"
            raise ValueError(f"{problem}, expected a crop to make sizes equal")
        self.losses_ = []

    def data(self, samples: Sequence[Sample], recipe: Recipe) -> MaskedImages:
        """Return random views of the images with their masks."""
        view = {"crop": recipe["crop"], "scales": recipe["scales"]}
        view["fill"] = mean_colour(getattr(self.net, "trunk", None))
        return MaskedImages(samples, recipe["masks"], "mask", view, n_classes=len(self.classes))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the network's own groups, or all of its weights."""
        own = getattr(self.net, "parameter_groups", None)
        return own() if own else super().parameter_groups()

    def fixed(self) -> list[nn.Module]:
        """Return the layers of batch normalisation where their statistics are kept."""
        return batch_norms(self) if self.numbers["fixes_norms"] else []

    def loss(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Compute the loss of a batch at all of its sizes, see `multi_scale_loss`.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            masks: (B, H, W) int64.
        """
        recipe = self.numbers
        net = self.forward if recipe["full_size"] else self.net
        options = {"loss": LOSSES[recipe["loss"]], "scales": recipe["loss_scales"]}
        return {"total": multi_scale_loss(net, images, masks, **options)}

    # -- prediction -------------------------------------------------------------------------

    @torch.no_grad()
    def probs(
        self,
        images: Tensor,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fuse: str = "mean",
    ) -> Tensor:
        """Compute probabilities over several sizes of an image and its mirror image.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            scales: of the images.
            flip: whether mirror images are seen too.
            fuse: ``"mean"`` of the probabilities, or the softmax of the ``"max"`` of the logits on
                the grid of the first size, as DeepLab's code has it for the sizes it was trained
                with (1, 0.75, 0.5); images are resized without antialiasing there.

        Returns:
            (B, K, H, W), sums to 1, on the device of ``images``.

        Raises:
            ValueError: if a number is out of its range.
        """
        check_images(images)
        check_scales(scales)
        check_word("fuse", fuse, ("mean", "max"))
        size, of_views = images.shape[-2:], []
        for scale in scales:
            scaled: dict[str, Any] = {"size": [max(1, round(side * scale)) for side in size]}
            if fuse == "max":  # as DeepLab's code
                scaled = {"scale_factor": scale}
            view = for_weights_of(self, images)
            if scale != 1:
                antialias = scale < 1 and fuse == "mean"
                view = F.interpolate(view, **scaled, mode="bilinear", antialias=antialias)
            for mirror in (False, True)[: 1 + flip]:
                logits = self.net(view.flip(-1)).flip(-1) if mirror else self.net(view)
                of_views.append(logits if fuse == "max" else upsample(logits, size).softmax(1))
        if fuse == "mean":
            return torch.stack(of_views).mean(0).to(images.device)
        grid = of_views[0].shape[2:]
        largest = torch.stack([upsample(logits, grid) for logits in of_views]).amax(0)
        return upsample(largest, size).softmax(1).to(images.device)

    def predict(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fuse: str = "mean",
        crf: Mapping[str, Any] | bool = False,
    ) -> Tensor:
        """Predict masks, with or without image-level labels.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) if they are known: absent classes are switched off. A published number of
                a segmenter knows no labels.
            scales: see `probs`.
            flip: see `probs`.
            fuse: see `probs`.
            crf: whether a dense CRF follows; parameters of `dense_crf`, or True for the default,
                which is DeepLab's.

        Returns:
            (B, H, W) int64.

        Raises:
            ValueError: if shapes do not fit, a number is out of its range, or the network computes
                NaN.
        """
        scores = self.probs(images, scales=scales, flip=flip, fuse=fuse)
        check_not_nan("what the segmenter computes", scores)
        if labels is not None:
            check_labels(labels)
            if labels.shape != (len(images), len(self.classes)):
                expected = f"({len(images)}, {len(self.classes)}): one column a class"
                raise ValueError(f"labels has shape {tuple(labels.shape)}, expected {expected}")
            known = torch.cat([labels.new_ones(len(labels), 1), labels], 1) > 0
            scores = scores * known[:, :, None, None].to(scores.device)
        if crf is not False:
            # with labels, absent classes take no part
            refine = dense_crf if labels is None else partial(crf_of_present, labels=labels)
            scores = refine(scores, images, **({} if crf is True else crf))
        return scores.argmax(1)

    def predict_all(
        self, samples: Sequence[Sample], *, shown: bool = True, **options: Any
    ) -> dict[str, Tensor]:
        """Predict masks of a whole data set, without its labels: name -> (H, W) int64.

        Args:
            samples: images.
            shown: whether to show a bar.
            **options: of `predict`.
        """
        return {
            sample.name: self.predict(sample.image[None], **options)[0]
            for sample in progress_bar(samples, what="masks", shown=shown, total=len(samples))
        }

    @classmethod
    def load(  # pyrefly: ignore[bad-override]  # no other options
        cls, path: str | Path, *, net: Own = None, backbone: Own = None, device: str = "auto"
    ) -> Segmenter:
        """Load a trained segmenter from its file.

        Args:
            path: as given to `save`.
            net: the network, where it was your own.
            backbone: that of a named network, where it was your own.
            device: where to put it; ``"auto"`` for CUDA where there is one.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file is damaged, of another method or version, or of another network.
        """
        return super().load(path, net=net, backbone=backbone).to(chosen_device(device))

    @classmethod
    def _built(cls, card: Mapping[str, Any], path: Any, options: dict[str, Any]) -> Segmenter:
        saved, net = {name: card[name] for name in cls.SAVED}, options["net"]
        if net is None:
            n_values = 1 + len(saved["classes"])
            backbone = options["backbone"] or saved["backbone"]
            net = build_network(saved["network"], n_values, backbone=backbone)
        return cls(net, **saved)


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
    check_seed(seed)
    if preset is None:
        preset = "deeplab" if network == "deeplab_v2" else "small"
    classes = classes_of(samples)
    names: dict[str, Any] = {"network": network, "backbone": backbone}
    if isinstance(network, str) and isinstance(backbone, str):
        warn_of_random_weights("the segmenter", backbone, weights)
    net = build_network(network, 1 + len(classes), backbone=backbone, weights=weights, seed=seed)
    for part, value in names.items():
        names[part] = type(value).__name__ if isinstance(value, nn.Module) else value
    segmenter = Segmenter(net, classes, **names, taught_by=taught_by, preset=preset)
    if isinstance(network, str):
        segmenter.to(chosen_device(device))
    given = {"iterations": iterations, "weight_decay": weight_decay, "scales": scales, "loss": loss}
    return segmenter.fit(samples, masks, seed=seed, **given, **training)
