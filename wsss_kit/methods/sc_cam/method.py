"""SC-CAM as a method: clustered, fitted round after round, read out, saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsss_kit.checkpoints import restore_optimiser
from wsss_kit.checks import check_count, check_given, check_not_negative, check_samples, check_word
from wsss_kit.classes import Sample
from wsss_kit.classifier.backbones import (
    build_backbone,
    classifier_tensors,
    new_head,
    restore_classifier,
)
from wsss_kit.classifier.train import LabelledImages, check_recipe
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.sc_cam.clusters import class_features, subcategory_labels
from wsss_kit.methods.sc_cam.train import (
    FEATURES,
    PRESETS,
    READ_OUTS,
    Recipe,
    check_subcategories,
    drop,
    epochs_of_rounds,
    jitter,
    joint_loss,
    make_optimiser,
)
from wsss_kit.methods.trained import TrainedCAM
from wsss_kit.processes import as_first
from wsss_kit.training import batch_norms, classes_of, descend, labels_of, train_epochs


class SCCAM(TrainedCAM):
    """A CAM trained to tell apart sub-categories that were found by clustering, in rounds.

    Args:
        backbone: a fitted `CAM`, whose backbone and head give the first features; or a name or a
            module as for `CAM`, and a classifier is trained first.
        weights: of a named backbone.
        stride: of a named backbone.
        n_subcategories: k, clusters of every class.
        rounds: how often to cluster and train.
        subcategory_weight: lambda, of the sub-categories' loss; 0 trains as long without it, as a
            control.
        features: what is clustered, ``"picture"`` (published) or ``"own_map"``.
        read_out: whose maps are shown, ``"parent"`` (published) or ``"children"``: of each class
            the largest of its sub-categories' maps.
        restart_each_round: whether a round begins where the first did, so that only the
            sub-categories carry over (published), or where the last ended.
        scales: factors on the image's sides whose maps are summed.
        flip: whether mirror images join the sum.
        preset: ``"reference"`` or ``"clean"``, see ``train.PRESETS``; an argument that is None
            takes its value.
        device: where a named backbone goes.

    Raises:
        ValueError: if there is no such preset or word, or a number is out of its range.

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world = PaperWorld(12, split="train")
        >>> method = SCCAM("paper", weights="web", preset="clean", n_subcategories=2, rounds=1)
        >>> method = method.fit(world, epochs=1, progress=False)
        >>> tuple(method.subcategories_.shape), tuple(method.sub_head_.shape)
        ((12, 16), (16, 96))
        >>> tuple(method(world[0].image[None], world[0].labels[None]).cams.shape)
        (1, 8, 24, 24)
    """

    METHOD, PRESETS = "SC-CAM", PRESETS
    OPTIONS = (
        *("n_subcategories", "rounds", "subcategory_weight", "features", "read_out"),
        *("restart_each_round", "scales", "flip"),
    )
    SAVED = ("k",)
    FREE = ("read_out",)
    SHIPPED = Path(__file__).with_name("paper_sc_cam.safetensors")

    def __init__(
        self,
        backbone: str | nn.Module | CAMMethod = "resnet50",
        *,
        weights: str | Path | None = None,
        stride: int | None = None,
        n_subcategories: int | None = None,
        rounds: int | None = None,
        subcategory_weight: float | None = None,
        features: str | None = None,
        read_out: str | None = None,
        restart_each_round: bool | None = None,
        scales: tuple[float, ...] | None = None,
        flip: bool | None = None,
        preset: str = "reference",
        device: str = "auto",
    ) -> None:
        shared = {"weights": weights, "stride": stride, "scales": scales, "flip": flip}
        super().__init__(backbone, **shared, preset=preset, device=device)
        check_given(check_count, n_subcategories=n_subcategories, rounds=rounds)
        check_given(check_not_negative, subcategory_weight=subcategory_weight)
        check_given(partial(check_word, known=FEATURES), features=features)
        check_given(partial(check_word, known=READ_OUTS), read_out=read_out)
        self.n_subcategories, self.rounds = n_subcategories, rounds
        self.subcategory_weight, self.features = subcategory_weight, features
        self.read_out, self.restart_each_round = read_out, restart_each_round

    # -- training ---------------------------------------------------------------------------

    def fit(
        self,
        samples: Sequence[Sample],
        *,
        epochs: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        crop: int | None = None,
        long_side: tuple[int, int] | None = None,
        baseline: Mapping[str, Any] | None = None,
        subcategories: Tensor | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        on_round: Callable[[int, SCCAM], None] | None = None,
        progress: bool = True,
    ) -> SCCAM:
        """Cluster and train, round after round.

        Args:
            samples: M images with labels; ``samples.classes`` names the classes if it is there.
            epochs: of every round, or one number a round.
            batch_size: images a step.
            learning_rate: of SGD at the start of a round.
            crop: side of random square crops, needed where images differ in size (the released
                code has 224).
            long_side: range of the longer side before cropping (256 to 512).
            baseline: of the classifier that is trained first where ``backbone`` is no fitted CAM:
                ``epochs``, ``batch_size`` or ``learning_rate`` instead of the usual ones.
            subcategories: (M, C * k) of 0 and 1, to train on for one round instead of clusters:
                what is known of the images, as an upper bound.
            seed: of weights, order, crops and clusters. Equal seeds give equal weights on one
                machine.
            checkpoint: path that the state is written to after every epoch, and once the classifier
                stands, and resumed from; of the same data, seed and recipe.
            on_round: called with the number of rounds done and this method, after each.
            progress: whether to show bars.

        Returns:
            Itself, with ``backbone_``, ``head_`` (C, D), ``sub_head_`` (C * k, D), ``classes_``,
            ``subcategories_`` (M, C * k) of the last round, ``rounds_``, those of every round, and
            ``losses_``, one dictionary an epoch with ``parent``, ``sub`` and ``total``.

        Raises:
            ValueError: if there are no samples, an image, label or number is not what it should
                be, or the checkpoint is of another run.
            RuntimeError: if the CAM to start from is not fitted.
            Diverged: if the loss runs away.
        """
        check_samples(samples)
        values = self._values(batch_size=batch_size, learning_rate=learning_rate)
        values.update(crop=crop, long_side=long_side, seed=seed, shown=progress)
        rounds = 1 if subcategories is not None else values["rounds"]
        values["epochs"] = epochs_of_rounds(epochs, values["epochs"], rounds)
        check_recipe({**values, "epochs": max(values["epochs"])})
        classes, k = classes_of(samples), values["n_subcategories"]
        base = self._baseline(values, baseline)
        if subcategories is not None:
            k = check_subcategories(subcategories, labels_of(samples))
        self._begin(classes, seed, k)
        place = self._place(checkpoint, samples, values, base, k=k, clustered=subcategories is None)
        stored, done = self._resume(place, sum(values["epochs"]))
        if not stored:
            from_backbone = values["starts_from"] == "trunk"
            if from_backbone:
                self.origin_ = self._untrained()
            if base is not None:
                self._train_classifier(samples, base)
            if not from_backbone:
                self.origin_ = _copied(classifier_tensors(self.backbone_, self.head_))
            self._save_state(place, self._optimiser(values), 0)
        before = 0
        for number, length in enumerate(values["epochs"]):
            if done < before + length:
                if done <= before:
                    self._begin_round(samples, number, values, subcategories)
                optimiser = self._optimiser(values)
                if done > before:
                    restore_optimiser(optimiser, stored)
                recipe, what = {**values, "epochs": length}, f"SC-CAM, round {number + 1}"
                keep = self._after_epoch(place, optimiser, before)
                options = {"done": max(done - before, 0), "before": before, "after_epoch": keep}
                self._train_round(samples, recipe, optimiser, what=what, **options)
                self.backbone_.eval()
                if on_round is not None:
                    on_round(number + 1, self)
            before += length
        self.backbone_.eval()
        return self

    def _train_round(
        self, samples: Sequence[Sample], recipe: Recipe, optimiser: Optimizer, **options: Any
    ) -> None:
        """Train backbone and both heads on one set of sub-categories; options of `train_epochs`."""
        backbone, heads = self.backbone_, (self.head_, self.sub_head_)
        device, weight = self.head_.device, recipe["subcategory_weight"]

        def step(images: Tensor, targets: Tensor, random: torch.Generator) -> dict[str, float]:
            if recipe["jitter"] is not None:
                images = jitter(images, recipe["jitter"], random)
            pooled = backbone(images.to(device)).mean((2, 3)).float()  # (B, D)
            pooled = drop(pooled, recipe["dropout"], random)
            both = targets.to(device).tensor_split([len(self.head_)], 1)  # (B, C) and (B, C * k)
            return descend(joint_loss(pooled, *heads, *both, weight=weight), optimiser)

        data = LabelledImages(samples, recipe, self.subcategories_.cpu())
        fixed = batch_norms(backbone) if recipe["fixed_batch_norm"] else ()
        train_epochs(step, data, backbone, optimiser, recipe, fixed=fixed, **options)

    def _optimiser(self, values: Mapping[str, Any]) -> Optimizer:
        return make_optimiser(self.backbone_, [self.head_, self.sub_head_], values)

    def _begin(self, classes: Sequence[str], seed: int, k: int) -> None:
        super()._begin(classes, seed)
        self.k_, self.rounds_ = k, []
        self.sub_head_ = self._new_sub_head(seed)
        self.subcategories_ = torch.zeros(0, len(classes) * k)

    def _begin_as(self, card: Mapping[str, Any]) -> None:
        self._begin(card["classes"], 0, card["k"])

    def _new_sub_head(self, seed: int) -> Tensor:
        C, D = self.head_.shape
        head = new_head(C * self.k_, D, seed=seed, xavier=self._values()["xavier_heads"])
        return head.to(self.head_.device).requires_grad_()

    def _untrained(self) -> dict[str, Tensor]:
        """Return the backbone's weights before any classifier; those of a fitted CAM built anew.

        Raises:
            ValueError: for a fitted CAM on a module, whose first weights are lost.
        """
        backbone, start = self.backbone_, self.backbone
        if isinstance(start, CAMMethod):
            if not isinstance(start.backbone, str):
                raise ValueError(
                    "preset reference begins every round with the backbone before any classifier, "
                    "which a fitted CAM on a module of your own no longer has; give the module "
                    'itself, or take preset="clean"'
                )
            backbone = build_backbone(start.backbone, stride=start.stride, weights=start.weights)
        return _copied({f"backbone.{name}": value for name, value in backbone.state_dict().items()})

    def _begin_round(
        self,
        samples: Sequence[Sample],
        number: int,
        values: Mapping[str, Any],
        given: Tensor | None,
    ) -> None:
        """Cluster what the network computes now, then put it where the round begins."""
        if given is not None:
            self.subcategories_ = given.float().cpu()
        else:
            features = self.features_of(samples, progress=values["shown"])
            options = {"k": self.k_, "seed": values["seed"]}
            self.subcategories_ = subcategory_labels(features, labels_of(samples), **options).cpu()
        as_first([self.subcategories_])  # clusters are found on each process's own device
        self.rounds_.append(self.subcategories_)
        if number == 0 or values["restart_each_round"]:
            origin = self.origin_
            if values["starts_from"] == "trunk":
                options = {"seed": values["seed"], "xavier": values["xavier_heads"]}
                origin = {**origin, "head": new_head(*self.head_.shape, **options)}
            restore_classifier(self.backbone_, self.head_, origin, "the beginning of the run")
        self.sub_head_ = self._new_sub_head(values["seed"])

    # -- maps -------------------------------------------------------------------------------

    def _shown_head(self, values: Mapping[str, Any]) -> tuple[Tensor, int]:
        if values["read_out"] == "parent":
            return self.head_, 1
        return self.sub_head_, self.k_

    def features_of(self, samples: Sequence[Sample], *, progress: bool = True) -> Tensor:
        """Compute what a further round would cluster, to look at clusters with.

        Args:
            samples: M images with labels.
            progress: whether to show a bar.

        Returns:
            (M, D), or (M, C, D) where each class has its own, as `class_features`.

        Raises:
            RuntimeError: if `fit` or `load` was not called.
        """
        self._check_fitted()
        values = self._values()
        options = {"features": values["features"], "unit_length": values["unit_length"]}
        head = self.head_.detach()
        return class_features(self.backbone_, head, samples, **options, shown=progress)

    # -- files ------------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """Return the description that is saved beside the weights."""
        return {**super().card(), "k": self.k_}

    def _tensors(self) -> dict[str, Tensor]:
        """Return the networks and the sub-categories of every round, to look at them later."""
        rounds = {f"round.{i}": labels.to(torch.uint8) for i, labels in enumerate(self.rounds_)}
        return {**super()._tensors(), "sub_head": self.sub_head_, **rounds}

    def _state(self) -> dict[str, Tensor]:
        return {**self._tensors(), **{f"origin.{k}": v for k, v in self.origin_.items()}}

    def _take(self, tensors: Mapping[str, Tensor], card: Mapping[str, Any], path: Any) -> None:
        super()._take(tensors, card, path)
        with torch.no_grad():
            self.sub_head_.copy_(tensors["sub_head"])
        n_rounds = sum(name.startswith("round.") for name in tensors)
        self.rounds_ = [tensors[f"round.{i}"].float() for i in range(n_rounds)]
        self.subcategories_ = self.rounds_[-1] if n_rounds else self.subcategories_
        origin = {name for name in tensors if name.startswith("origin.")}
        self.origin_ = {name.removeprefix("origin."): tensors[name] for name in origin}


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU, which no training changes."""
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}
