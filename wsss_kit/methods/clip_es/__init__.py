"""CLIP-ES: softmax Grad-CAM and class-aware attention affinity of a frozen CLIP, no training.

Lin et al., "CLIP is Also an Efficient Segmenter", CVPR 2023.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from wsss_kit.affinity import balanced_walk, box_masks
from wsss_kit.cam import Texts
from wsss_kit.checks import (
    check_count,
    check_given,
    check_images,
    check_probability,
    check_scales,
    check_word,
)
from wsss_kit.classes import Sample
from wsss_kit.clip import SIMILARITY, AnyTower, FrozenModel, load_clip
from wsss_kit.files import check_card, plain, read_card, weights_path, write_whole
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.base import CAMMethod, MethodOutput, check_batch, preset_values
from wsss_kit.methods.clip_es.opened import PRESETS, OpenedImage, RefinedMaps, Responses
from wsss_kit.methods.clip_es.views import SINKHORN, as_images, batch_maps, checked_texts
from wsss_kit.prompts import Prompts

TARGETS = ("softmax", "classes", "logit")
"""What is differentiated for a map: a class's probability among the classes present and the
background prompts (the method), among the classes present alone, or its logit (Grad-CAM)."""
_CARD_VERSION = 4
_OPTIONS = ("flip", "scales", "similarity", "distribution")
_SAVED = ("prompts", "n_layers", "squarings", "preset", "target", *_OPTIONS)


class CLIPES(CAMMethod):
    """Softmax Grad-CAM and attention affinity of a frozen CLIP.

    Args:
        clip: the model; it is neither moved nor changed.
        prompts: classes, backgrounds, synonyms and templates.
        n_layers: over how many of the last layers attention is averaged, clamped to the model's
            depth. None takes the model's ``attention_layers``.
        squarings: how often the transition made from that attention is squared before maps are
            walked with it: 0 is one step, 1 two. None takes the model's ``walk_squarings``.
        preset: ``"reference"``, ``"clean"`` or ``"plus"``, see ``PRESETS``.
        target: one of ``TARGETS``; all but ``"softmax"`` show what the method gains.
        flip: whether to average maps and affinity with those of the flipped image. None takes the
            preset's, as for the next three.
        scales: factors on the image's sides; the maps of all scales are averaged.
        similarity: whose similarity is the affinity, one of ``SIMILARITY``.
        distribution: whether it is weighed by the similarity of the cells' classes, see
            `views.similarity_of_classes`.
        affinity_backbone: another model that gives the affinity: from `load_clip`, or a network of
            timm, such as ``timm.create_model("vit_small_patch14_dinov2", pretrained=True,
            num_classes=0)``. It sees the image at a size with as many cells. None for ``clip``.

    Raises:
        ValueError: if there is no such target or preset, ``n_layers`` or ``squarings`` is no
            count, or ``clip``, ``prompts`` or ``affinity_backbone`` are something else.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()
        >>> sample = PaperWorld(1)[0]
        >>> output = method(sample.image[None], sample.labels[None])
        >>> tuple(output.cams.shape), tuple(output.affinity.shape)
        ((1, 8, 12, 12), (1, 144, 144))
    """

    background = walked_background = BackgroundRule(power=1)
    brings_affinity = True
    clip: FrozenModel
    affinity_backbone: FrozenModel | None

    def __init__(
        self,
        clip: FrozenModel,
        *,
        prompts: Prompts,
        n_layers: int | None = None,
        squarings: int | None = None,
        preset: str = "reference",
        target: str = "softmax",
        flip: bool | None = None,
        scales: tuple[float, ...] | None = None,
        similarity: str | None = None,
        distribution: bool | None = None,
        affinity_backbone: FrozenModel | nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(clip, "encode_dense") or not isinstance(prompts, Prompts):
            raise ValueError(
                f"clip is {type(clip).__name__} and prompts {type(prompts).__name__}, expected a "
                "FrozenCLIP from load_clip and Prompts"
            )
        preset_values(PRESETS, preset, {})
        check_given(check_count, n_layers=n_layers)
        check_given(partial(check_count, least=0), squarings=squarings)
        check_word("target", target, TARGETS)
        if scales is not None:
            check_scales(scales)
        check_given(partial(check_word, known=SIMILARITY), similarity=similarity)
        if affinity_backbone is not None and not hasattr(affinity_backbone, "affinity"):
            affinity_backbone = AnyTower.of_timm(affinity_backbone, clip.device)
        self.keep(clip=clip, affinity_backbone=affinity_backbone)
        self.prompts, self.n_layers, self.preset = prompts, n_layers, preset
        self.squarings, self.target, self.flip = squarings, target, flip
        self.scales = None if scales is None else tuple(scales)
        self.similarity, self.distribution = similarity, distribution

    @property
    def walk_squarings(self) -> int:
        """``squarings`` where it is given, otherwise the model's own."""
        return self.clip.walk_squarings if self.squarings is None else self.squarings

    @property
    def affinity_name(self) -> str:
        """What a protocol calls the affinity."""
        other = self.affinity_backbone
        attends = (other or self.clip).attends and self.similarity != "features"
        kind = "attention" if attends else "feature"
        return f"{kind} affinity{'' if other is None else f' of {other.name}'}"

    @property
    def clamp_boxes(self) -> bool:
        """Whether boxes miss the last row and column, see ``PRESETS``."""
        return preset_values(PRESETS, self.preset, {})["clamp_boxes"]

    def fit(self, samples: Sequence[Sample] = (), **training: Any) -> CLIPES:
        """Encode the prompts; there is nothing to train, so ``samples`` may be left out.

        Returns:
            Itself, with ``class_features_`` (C, D) and ``background_features_`` (P, D), unit; with
            several templates their mean, normalised again.
        """
        if training:
            raise ValueError(f"CLIP-ES has nothing to train; it cannot use {', '.join(training)}")
        encode = self.clip.encode_sentences
        self.class_features_ = encode(self.prompts.class_sentences())
        self.background_features_ = encode(self.prompts.background_sentences())
        return self

    def forward(self, images: Tensor, labels: Tensor) -> MethodOutput:
        """Compute maps of the classes present and the affinity that refines them.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.

        Returns:
            cams (B, C, h, w), one cell a patch, each scaled to [0, 1] over its own range; affinity
            (B, h * w, h * w), the mean attention of the last layers. With ``flip`` both are means
            over the two views.

        Raises:
            RuntimeError: if `fit` was not called.
            ValueError: if shapes do not fit.
        """
        if not hasattr(self, "class_features_"):
            raise RuntimeError("the phrases are not encoded yet; call fit() first")
        check_batch(images, labels, len(self.prompts.classes))
        if not len(images):
            h, w = (side // self.clip.patch_size for side in self.clip.shown_size(images))
            empty = images.new_zeros(0, labels.shape[1], h, w, dtype=torch.float32)
            return MethodOutput(empty, empty.new_zeros(0, h * w, h * w))
        present = labels.to(self.clip.device) > 0
        backgrounds = self.background_features_[: 0 if self.target == "classes" else None]
        texts = Texts(torch.cat([self.class_features_, backgrounds]), present)
        options = {"softmax": self.target != "logit", **self._options()}
        maps, attention, _, grid = batch_maps(self.clip, images, texts, **options)
        cams = attention.new_zeros(*labels.shape, *grid)
        cams[present] = maps.to(cams)
        return MethodOutput(cams.to(images.device), attention.to(images.device))

    def open(
        self, image: Tensor | np.ndarray | Image.Image, classes: Tensor | Sequence[str]
    ) -> OpenedImage:
        """Open an image to change prompts and get its maps at once: the backbone runs now and once.

        Args:
            image: (3, H, W) RGB in [0, 1], (H, W, 3) uint8 or a Pillow image.
            classes: names of the classes present, or (C,) labels of 0 and 1.

        Returns:
            `OpenedImage`; its ``maps()`` are this method's, and after ``prepare()`` those of any
            edit at once.

        Raises:
            ValueError: if the image is malformed or a class unknown.

        Example:
            >>> from wsss_kit.clip import load_clip
            >>> from wsss_kit.paperworld import PaperWorld
            >>> method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper())
            >>> sample = PaperWorld(1)[0]
            >>> opened = method.open(sample.image, ["cow", "cat"])
            >>> without_grass = opened.maps(without=["grass"])
            >>> with_fog = opened.maps(method.prompts.replace(backgrounds=["grass", "fog"]))
            >>> tuple(with_fog.cams.shape), tuple(with_fog.probs.shape)
            ((2, 12, 12), (4,))
        """
        images = as_images(image, self.clip.device)
        check_images(images)
        if isinstance(classes, Tensor):
            check_batch(images, classes[None], len(self.prompts.classes))
            classes = [self.prompts.classes[c] for c in classes.nonzero().flatten().tolist()]
        return OpenedImage(self, images, classes)

    def _options(self) -> dict[str, Any]:
        """Return options of `batch_maps`: the preset's, unless an argument was given."""
        options = {name: getattr(self, name) for name in _OPTIONS}
        values = {"n_layers": self.n_layers, **preset_values(PRESETS, self.preset, options)}
        values["affinity_backbone"] = self.affinity_backbone
        del values["clamp_boxes"]  # the boxes come after the maps
        return values

    def save(self, path: str | Path) -> Path:
        """Write prompts and arguments as JSON: everything but CLIP itself."""
        path = weights_path(path).with_suffix(".json")
        card = {"method": "CLIP-ES", "version": _CARD_VERSION}
        card |= {name: getattr(self, name) for name in _SAVED}
        card["prompts"] = json.loads(self.prompts.to_json())
        return write_whole(path, json.dumps(card, indent=1, default=plain) + "\n")

    @classmethod
    def load(cls, path: str | Path, *, clip: FrozenModel | None = None, **options: Any) -> CLIPES:
        """Load a fitted CLIP-ES from the file that `save` wrote.

        Args:
            path: as given to `save`.
            clip: the model, which is not in the file; the tiny CLIP unless another is given.
            **options: arguments of the constructor that replace the saved ones, and the
                ``affinity_backbone``, which is not in the file either.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or a card of another method or version.
        """
        path = weights_path(path).with_suffix(".json")
        card = read_card(path)
        if "likeness" in card:  # of files from before 0.3
            card["similarity"] = card.pop("likeness")
        check_card(card, path, method="CLIP-ES", version=_CARD_VERSION, keys=_SAVED)
        saved = {key: card[key] for key in _SAVED}
        saved["prompts"] = Prompts.from_json(json.dumps(card["prompts"]))
        return cls(clip if clip is not None else load_clip("paper"), **{**saved, **options}).fit()


def refined_maps(
    clip: FrozenModel,
    image: np.ndarray | Image.Image | Tensor,
    positives: Tensor,
    backgrounds: Tensor,
    *,
    preset: str = "reference",
    box_threshold: float = 0.4,
) -> RefinedMaps:
    """Compute maps of one image for encoded texts, with every step between.

    Args:
        clip: the model; its ``attention_layers`` and ``walk_squarings`` are used.
        image: (H, W, 3) uint8, a Pillow image, or (3, H, W) RGB in [0, 1].
        positives: (C, D) unit text embeddings of the classes present.
        backgrounds: (P, D) of the background prompts; P may be 0.
        preset: one of ``PRESETS``.
        box_threshold: share of a map's maximum that is inside its box; 0.4 for VOC, 0.7 for COCO.

    Returns:
        `RefinedMaps` on the model's device.

    Raises:
        ValueError: if the image is malformed, the texts have another width than the model's, or
            preset or threshold are unknown.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> clip = load_clip("paper", device="cpu")
        >>> texts = clip.encode_text(["a cow", "a cat", "grass", "sky"])
        >>> found = refined_maps(clip, np.zeros((40, 60, 3), np.uint8), texts[:2], texts[2:])
        >>> tuple(found.refined.shape), tuple(found.attention.shape), tuple(found.probs.shape)
        ((2, 5, 8), (40, 40), (4,))
    """
    check_probability("box_threshold", box_threshold)
    values = preset_values(PRESETS, preset, {})
    checked = torch.cat(checked_texts(clip, positives, backgrounds))
    texts = Texts(checked, checked.new_ones(1, len(positives), dtype=torch.bool))
    clamp = values.pop("clamp_boxes")
    cams, attention, probs, _ = batch_maps(clip, as_images(image, clip.device), texts, **values)
    masks = box_masks(cams[None], threshold=box_threshold, clamp=clamp)
    options = {"sinkhorn": SINKHORN, "squarings": clip.walk_squarings}
    refined = balanced_walk(masks * cams[None], attention, **options)
    return RefinedMaps(cams, refined[0], masks[0], attention[0], probs[0])
