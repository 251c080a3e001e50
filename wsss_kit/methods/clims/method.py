"""CLIMS as a method: fitted, read out, saved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.cam import class_activation_maps
from wsss_kit.checks import check_given, check_not_negative, check_probability
from wsss_kit.classes import Sample, classes_of
from wsss_kit.clip import FrozenCLIP
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.base import CAMMethod, Recipe
from wsss_kit.methods.cam import first_classifier
from wsss_kit.methods.clims.judge import Judge
from wsss_kit.methods.clims.train import LOSSES, PRESETS, calibrate, check_maps
from wsss_kit.methods.trained import TrainedCAM
from wsss_kit.processes import mean_count, total, world
from wsss_kit.prompts import Prompts


class CLIMS(TrainedCAM):
    """A CAM trained on by what a frozen CLIP says of the images that it masks.

    Args:
        clip: the evaluator, any `FrozenCLIP`; it is neither moved nor changed. None for a method
            that only reads out maps.
        backbone: a fitted `CAM`, whose backbone and head are copied and trained on; or a name or a
            module as for `CAM`, and a classifier is trained first.
        prompts: classes, background texts and, in ``class_backgrounds``, which of these come with
            which class; without any, all backgrounds count for every class, as released.
        weights: of a named backbone.
        stride: of a named backbone.
        otm: alpha, weight of the object text loss.
        btm: beta, of the background text loss.
        cbs: gamma, of the co-occurring background suppression.
        reg: delta, of the area regularisation.
        cbs_threshold: cosines up to this are no background; None takes the preset's.
        scales: factors on the image's sides whose maps are summed.
        flip: whether mirror images join the sum.
        preset: ``"reference"``, ``"paper"`` or ``"clean"``, see ``train.PRESETS``; an argument
            that is None takes its value.
        device: where a named backbone goes.

    Raises:
        ValueError: if there is no such preset, or a number is out of its range.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(4, split="train")
        >>> clip, prompts = load_clip("paper", device="cpu"), Prompts.paper(method="clims")
        >>> clims = CLIMS(clip, "paper", weights="web", prompts=prompts, preset="clean")
        >>> clims = clims.fit(world, epochs=1, batch_size=2, progress=False)
        >>> cams, affinity = clims(world[0].image[None], world[0].labels[None])
        >>> sorted(clims.losses_[0]), tuple(cams.shape), affinity
        (['btm', 'cbs', 'otm', 'reg', 'total'], (1, 8, 24, 24), None)
    """

    METHOD, PRESETS = "CLIMS", PRESETS
    OPTIONS = (*LOSSES, "cbs_threshold", "scales", "flip")
    SAVED = (*TrainedCAM.SAVED, "prompts")
    SHIPPED = Path(__file__).with_name("paper_clims.safetensors")
    walked_background = BackgroundRule(threshold=0.2)

    def __init__(
        self,
        clip: FrozenCLIP | None,
        backbone: str | nn.Module | CAMMethod = "resnet50",
        *,
        prompts: Prompts,
        weights: str | Path | None = None,
        stride: int | None = None,
        otm: float | None = None,
        btm: float | None = None,
        cbs: float | None = None,
        reg: float | None = None,
        cbs_threshold: float | None = None,
        scales: tuple[float, ...] | None = None,
        flip: bool | None = None,
        preset: str = "reference",
        device: str = "auto",
    ) -> None:
        shared = {"weights": weights, "stride": stride, "scales": scales, "flip": flip}
        super().__init__(backbone, **shared, preset=preset, device=device)
        if not isinstance(prompts, Prompts):
            raise ValueError(f"prompts is {type(prompts).__name__}, expected Prompts")
        check_given(check_not_negative, otm=otm, btm=btm, cbs=cbs, reg=reg)
        check_given(check_probability, cbs_threshold=cbs_threshold)
        if clip is not None and not hasattr(clip, "encode_sentences"):
            raise ValueError(f"clip is {type(clip).__name__}, expected a FrozenCLIP from load_clip")
        self.keep(clip=clip)
        self.prompts, self.cbs_threshold = prompts, cbs_threshold
        self.otm, self.btm, self.cbs, self.reg = otm, btm, cbs, reg

    # -- training ---------------------------------------------------------------------------

    def fit(
        self,
        samples: Sequence[Sample],
        *,
        baseline: Mapping[str, Any] | None = None,
        **training: Any,
    ) -> CLIMS:
        """Train by the four losses, from a classifier on.

        Args:
            samples: M images with labels, of the prompts' classes.
            baseline: of the classifier that is trained first where ``backbone`` is no fitted CAM:
                ``epochs``, ``batch_size`` or ``learning_rate`` instead of the usual ones. Its
                checkpoint is called like that of CLIMS with ``-classifier`` at the end.
            **training: arguments of `Learner.fit`. Photographs need a ``crop`` (512 in the
                released code, with ``long_side`` 320 to 640).

        Returns:
            Itself, with ``backbone_``, ``head_`` (C, D), ``bias_`` (C,) of the sigmoid,
            ``classes_`` and ``losses_``, one dictionary an epoch: the losses, not weighted, and
            ``total``, weighted.

        Raises:
            ValueError: as `Learner.fit`, and if the classes are not the prompts'.
            RuntimeError: if there is no CLIP, or the CAM to start from is not fitted.
            Diverged: if the loss runs away, or the maps are 0 or 1 all over.
        """
        if self.clip is None:
            raise RuntimeError("this CLIMS has no CLIP to learn from; give it one: CLIMS(clip, …)")
        return super().fit(samples, **training, baseline=baseline)

    def values(self, **given: Any) -> dict[str, Any]:
        """Return the preset's values, replaced by the constructor's and the given arguments."""
        baseline = given.pop("baseline", None)
        return {**super().values(**given), "baseline": baseline}

    def begin(self, samples: Sequence[Sample], recipe: dict[str, Any]) -> None:
        """Train the classifier to start from, or copy a fitted one; encode the texts."""
        classes, expected = classes_of(samples), self.prompts.classes
        named = getattr(samples, "classes", None) is not None
        if (named and classes != expected) or len(classes) != len(expected):
            raise ValueError(
                f"the samples have {len(classes)} classes ({', '.join(classes[:4])}, …) and the "
                f"prompts {len(expected)} ({', '.join(expected[:4])}, …); "
                "expected the same in the same order"
            )
        cam = first_classifier(self, samples, recipe, recipe["baseline"])
        if cam is not self.backbone:
            cam.classes_ = expected
        self.build(expected, recipe["seed"], trained=cam)
        self.judge_ = Judge(self.clip, self.prompts, recipe)

    def build(self, classes: Sequence[str], seed: int, trained: CAMMethod | None = None) -> None:
        """Build backbone, head and the sigmoid's bias."""
        super().build(classes, seed, trained=trained)
        self.bias_ = nn.Parameter(torch.zeros(len(classes), device=self.head_.device))

    def start(self, samples: Sequence[Sample], recipe: Recipe) -> None:
        """Calibrate the sigmoid, if the preset says so."""
        if recipe["calibrated"]:
            calibrate(self.backbone_, self.head_, self.bias_, samples)

    def heads(self) -> list[Tensor]:
        """Return the head and, where it is calibrated, the sigmoid's bias."""
        return [self.head_, self.bias_] if self.numbers["calibrated"] else [self.head_]

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the four losses of a batch.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.

        Returns:
            ``otm``, ``btm``, ``cbs`` and ``reg``, not weighted; ``total``, weighted; and ``maps``,
            the mean of the maps of the classes present. Of several processes this one's part.

        Raises:
            Diverged: if a map is no number.
        """
        recipe = self.numbers
        cams = class_activation_maps(self.backbone_(images), self.head_)
        maps = torch.sigmoid(cams.float() + self.bias_[:, None, None])  # those that are trained
        if not torch.isfinite(maps).all():
            check_maps(float("nan"), f"epoch {len(self.losses_) + 1}")
        if not hasattr(self, "judge_"):
            self.judge_ = Judge(self.clip, self.prompts, recipe)
        losses = self.judge_.losses(images, maps, labels)
        # means over the pairs of this process, or over its maps, as parts of the whole batch
        n_pairs, n_images = labels.sum(), labels.new_tensor(float(len(labels)))
        pairs, of_images = n_pairs / mean_count(n_pairs), n_images / mean_count(n_images)
        shares = dict.fromkeys(LOSSES, pairs)
        if recipe["backgrounds"] != "pairs":  # a sum
            shares["cbs"] = torch.tensor(float(world()), device=pairs.device)
        if recipe["area"] != "present" or not total(n_pairs):
            shares["reg"] = of_images
        losses = {name: shares[name] * losses[name] for name in LOSSES}
        losses["total"] = sum(recipe[name] * losses[name] for name in LOSSES)
        present = maps.detach()[labels > 0]
        losses["maps"] = pairs * present.mean() if len(present) else pairs
        return losses

    def after_epoch(self, epoch: int, losses: dict[str, float]) -> None:
        """Refuse to go on with maps that are 0 or 1 all over."""
        check_maps(losses.pop("maps"), f"epoch {epoch + 1}")

    # -- files ------------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """Return the description that is saved with the weights."""
        return {**super().card(), "prompts": json.loads(self.prompts.to_json())}

    @classmethod
    def _more_arguments(cls, card: Mapping[str, Any]) -> dict[str, Any]:
        return {"clip": None, "prompts": Prompts.from_json(json.dumps(card["prompts"]))}
