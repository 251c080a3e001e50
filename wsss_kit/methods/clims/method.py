"""CLIMS as a method: fitted, read out, saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.checkpoints import restore_optimiser
from wsss_kit.checks import (
    check_count,
    check_given,
    check_not_negative,
    check_probability,
    check_samples,
)
from wsss_kit.classes import Sample
from wsss_kit.classifier.train import LabelledImages, check_recipe
from wsss_kit.clip import FrozenCLIP
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.clims.judge import Judge
from wsss_kit.methods.clims.train import (
    LOSSES,
    PRESETS,
    WARM_UP,
    calibrate,
    check_maps,
    make_optimiser,
    train_step,
)
from wsss_kit.methods.trained import TrainedCAM
from wsss_kit.prompts import Prompts
from wsss_kit.training import batch_norms, classes_of, cosine_decay, train_epochs


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
    SAVED = ("prompts",)
    FREE = ("epochs", "accumulate")
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
        self.clip, self.prompts, self.cbs_threshold = clip, prompts, cbs_threshold
        self.otm, self.btm, self.cbs, self.reg = otm, btm, cbs, reg

    # -- training ---------------------------------------------------------------------------

    def fit(
        self,
        samples: Sequence[Sample],
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        crop: int | None = None,
        long_side: tuple[int, int] | None = None,
        accumulate: int = 1,
        baseline: Mapping[str, Any] | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        on_epoch: Callable[[int, CLIMS], None] | None = None,
        progress: bool = True,
    ) -> CLIMS:
        """Train by the four losses, from a classifier on.

        Args:
            samples: M images with labels, of the prompts' classes.
            epochs: passes over the samples with CLIP.
            batch_size: images a step of the optimiser.
            learning_rate: of the backbone at its start.
            crop: side of random square crops, needed where images differ in size.
            long_side: range of the longer side before cropping.
            accumulate: parts a batch is split into where memory is short; the step is the same,
                batch normalisation by batch statistics aside.
            baseline: of the classifier that is trained first where ``backbone`` is no fitted CAM:
                ``epochs``, ``batch_size`` or ``learning_rate`` instead of the usual ones.
            seed: of weights, order and crops. Equal seeds give equal weights on one machine.
            checkpoint: path that the state is written to after every epoch, and once the
                classifier stands, and resumed from; of the same data, seed and recipe, only
                ``epochs`` may be more.
            on_epoch: called with the number of epochs done and this method, after each, to look at
                maps on the way: ``on_epoch=lambda epoch, clims: ...``.
            progress: whether to show bars, with the four losses.

        Returns:
            Itself, with ``backbone_``, ``head_`` (C, D), ``bias_`` (C,) of the sigmoid,
            ``classes_`` and ``losses_``, one dictionary an epoch: the losses, not weighted, and
            ``total``, weighted.

        Raises:
            ValueError: if there are no samples, an image, label or number is not what it should
                be, the classes are not the prompts', or the checkpoint is of another run.
            RuntimeError: if there is no CLIP, or the CAM to start from is not fitted.
            Diverged: if the loss runs away, or the maps are 0 or 1 all over.
        """
        if self.clip is None:
            raise RuntimeError("this CLIMS has no CLIP to learn from; give it one: CLIMS(clip, …)")
        check_samples(samples)
        values = self._values(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
        values.update(crop=crop, long_side=long_side, seed=seed, shown=progress)
        values["accumulate"] = accumulate
        check_recipe(values)
        check_count("accumulate", accumulate)
        classes, expected = classes_of(samples), self.prompts.classes
        named = getattr(samples, "classes", None) is not None
        if (named and classes != expected) or len(classes) != len(expected):
            raise ValueError(
                f"the samples have {len(classes)} classes ({', '.join(classes[:4])}, …) and the "
                f"prompts {len(expected)} ({', '.join(expected[:4])}, …); "
                "expected the same in the same order"
            )
        base = self._baseline(values, baseline)
        self._begin(self.prompts.classes, seed)
        network = self.backbone_, self.head_, self.bias_
        prompts = json.loads(self.prompts.to_json())
        place = self._place(checkpoint, samples, values, base, prompts=prompts)
        stored, done = self._resume(place, values["epochs"])
        if not stored:
            if base is not None:
                self._train_classifier(samples, base)
            if values["calibrated"]:
                calibrate(*network, samples)
        optimiser = make_optimiser(*network, values)
        restore_optimiser(optimiser, stored)
        if not stored:
            self._save_state(place, optimiser, 0)
        keep, judge = self._after_epoch(place, optimiser), Judge(self.clip, self.prompts, values)

        def step(images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, float]:
            where = f"epoch {len(self.losses_) + 1}"
            return train_step(*network, images, labels, judge, values, optimiser, where=where)

        def after_epoch(epoch: int, losses: dict[str, float]) -> None:
            check_maps(losses.pop("maps"), f"epoch {epoch + 1}")
            keep(epoch, losses)
            if on_epoch is not None:
                self.backbone_.eval()
                on_epoch(epoch + 1, self)

        train_epochs(
            *(step, LabelledImages(samples, values), self.backbone_, optimiser, values),
            what="CLIMS",
            done=done,
            decay=partial(cosine_decay, warmup=WARM_UP) if values["optimiser"] == "adamw" else None,
            fixed=() if values["trains_batch_norm"] else batch_norms(self.backbone_),
            after_epoch=after_epoch,
        )
        self.backbone_.eval()
        return self

    def _begin(self, classes: Sequence[str], seed: int) -> None:
        super()._begin(classes, seed)
        self.bias_ = torch.zeros(len(classes), device=self.head_.device, requires_grad=True)

    # -- files ------------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """Return the description that is saved beside the weights."""
        return {**super().card(), "prompts": json.loads(self.prompts.to_json())}

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), "bias": self.bias_}

    def _take(self, tensors: Mapping[str, Tensor], card: Mapping[str, Any], path: Any) -> None:
        super()._take(tensors, card, path)
        with torch.no_grad():
            self.bias_.copy_(tensors["bias"])

    @classmethod
    def _more_arguments(cls, card: Mapping[str, Any]) -> dict[str, Any]:
        return {"clip": None, "prompts": Prompts.from_json(json.dumps(card["prompts"]))}
