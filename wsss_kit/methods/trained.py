"""What CAM, SC-CAM and CLIMS share: a backbone with a linear head that is trained and saved."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wsss_kit.cam import class_activation_maps, multi_scale, normalize_cams
from wsss_kit.checkpoints import Place, Resumable, fingerprint
from wsss_kit.checks import check_count, check_device, check_given, check_scales, chosen_device
from wsss_kit.classes import Sample
from wsss_kit.classifier.backbones import (
    build_backbone,
    classifier_tensors,
    new_head,
    restore_classifier,
)
from wsss_kit.classifier.train import (
    CLASSIFIER,
    LabelledImages,
    check_recipe,
    head_group,
    optimiser_of,
    own_soft_margin_loss,
)
from wsss_kit.files import check_classes
from wsss_kit.methods.base import CAMMethod, MethodOutput, check_batch, preset_values
from wsss_kit.training import batch_norms, descend, device_of, polynomial_decay, train_epochs


class TrainedCAM(Resumable, CAMMethod):
    """A classifier whose class activation maps are read out.

    A subclass names itself, its presets and its options, and has a ``fit``.

    The constructor takes the arguments of `CAM`.
    """

    VERSION = 2
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]]
    OPTIONS: ClassVar[tuple[str, ...]] = ("scales", "flip")
    """Constructor arguments that a preset has values for."""
    FREE: ClassVar[tuple[str, ...]] = ("epochs",)
    """Numbers of a training that may differ when it is resumed."""
    SHIPPED: ClassVar[Path | None] = None
    """Weights for the embedded world in the package."""

    def __init__(
        self,
        backbone: str | nn.Module | CAMMethod = "resnet50",
        *,
        weights: str | Path | None = None,
        stride: int | None = None,
        scales: tuple[float, ...] | None = None,
        flip: bool | None = None,
        preset: str = "reference",
        device: str = "auto",
    ) -> None:
        preset_values(self.PRESETS, preset, {})
        check_given(check_count, stride=stride)
        if scales is not None:
            check_scales(scales)
        check_device(device)
        self.backbone, self.weights, self.stride = backbone, weights, stride
        self.scales, self.flip, self.preset, self.device = scales, flip, preset, device

    def _values(self, **given: Any) -> dict[str, Any]:
        """Return the preset's values, replaced by the constructor's and the given arguments."""
        options = {name: getattr(self, name) for name in self.OPTIONS}
        values = preset_values(self.PRESETS, self.preset, {**options, **given})
        # whether the training begins with weights that were trained before
        pretrained = self.weights is not None or isinstance(self.backbone, nn.Module)
        return {**values, "pretrained": pretrained}

    def _begin(self, classes: Sequence[str], seed: int) -> None:
        """Build a backbone and a head (C, D), or copy those of a fitted CAM.

        Raises:
            RuntimeError: if the CAM is not fitted.
            ValueError: if it knows other classes.
        """
        start = self.backbone
        if not isinstance(start, CAMMethod):
            backbone = build_backbone(start, stride=self.stride, weights=self.weights, seed=seed)
            if isinstance(start, str):  # a module stays where it is
                backbone = backbone.to(chosen_device(self.device))
            head = new_head(len(classes), backbone.out_channels, seed=seed).to(device_of(backbone))
        elif not hasattr(start, "head_"):
            raise RuntimeError("the CAM to start from is not fitted; call its fit(samples)")
        elif tuple(start.classes_) != tuple(classes):
            raise ValueError(
                f"the CAM to start from knows {', '.join(start.classes_[:4])}, … and what is to be "
                f"learned is {', '.join(classes[:4])}, …; expected the same classes"
            )
        else:
            backbone, head = copy.deepcopy(start.backbone_), start.head_.detach().clone()
        self.backbone_, self.head_ = backbone, head.requires_grad_()
        self.classes_, self.losses_ = tuple(classes), []

    def _baseline(
        self, values: Mapping[str, Any], given: Mapping[str, Any] | None
    ) -> dict[str, Any] | None:
        """Return the recipe of the classifier that is trained first; None for a fitted one.

        Args:
            values: of the method's own training: ``crop``, ``long_side``, ``seed`` and ``shown``
                are shared.
            given: ``epochs``, ``batch_size`` or ``learning_rate`` instead of the usual ones.

        Raises:
            ValueError: if something else is given, or anything beside a fitted CAM.
        """
        given = given or {}
        if isinstance(self.backbone, CAMMethod):
            if given:
                raise ValueError(f"a fitted CAM and baseline {dict(given)}: give one of the two")
            return None
        unknown = set(given) - {"epochs", "batch_size", "learning_rate"}
        if unknown:
            raise ValueError(
                f"baseline names {', '.join(sorted(unknown))}, expected epochs, batch_size or "
                "learning_rate"
            )
        usual = CLASSIFIER["clean" if self.preset == "clean" else "reference"]
        shared = ("crop", "long_side", "seed", "shown", "pretrained")
        recipe = {**usual, **{key: values[key] for key in shared}, **given}
        check_recipe(recipe)
        return recipe

    def _classifier_optimiser(self, recipe: Mapping[str, Any]) -> torch.optim.Optimizer:
        """Create the optimiser of `_train_classifier`: everything learns."""
        learning = {"params": list(self.backbone_.parameters()), "lr": recipe["learning_rate"]}
        return optimiser_of([head_group([self.head_], recipe), learning], recipe)

    def _train_classifier(
        self,
        samples: Sequence[Sample],
        recipe: Mapping[str, Any],
        optimiser: torch.optim.Optimizer | None = None,
        **options: Any,
    ) -> None:
        """Train backbone and head with a multi-label soft-margin loss.

        Args:
            samples: images with labels.
            recipe: see `classifier.train`.
            optimiser: with its moments where a run is resumed; None for a new one.
            **options: of `train_epochs`.
        """
        backbone, head = self.backbone_, self.head_
        optimiser = optimiser or self._classifier_optimiser(recipe)
        pretrained, steps = recipe["pretrained"], -(-len(samples) // recipe["batch_size"])
        fixes = recipe["fixed_batch_norm"] and pretrained

        def step(images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, float]:
            pooled = backbone(images.to(head.device)).mean((2, 3))  # (B, D)
            loss = own_soft_margin_loss(pooled @ head.T, labels.to(head.device))
            return descend({"total": loss}, optimiser)

        train_epochs(
            *(step, LabelledImages(samples, recipe), backbone, optimiser, recipe),
            what="CAM classifier",
            decay=partial(polynomial_decay, warmup=0 if pretrained else min(30, steps)),
            fixed=batch_norms(backbone) if fixes else (),
            **options,
        )

    # -- maps -------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> MethodOutput:
        """Compute maps of the classes present, summed over scales and mirror images.

        They are the ReLU of the logits' maps, as the papers read them out.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.

        Returns:
            cams (B, C, ceil(H / 4), ceil(W / 4)), each divided by its maximum; no affinity.

        Raises:
            RuntimeError: if `fit` or `load` was not called.
            ValueError: if shapes do not fit.
        """
        self._check_fitted()
        values = self._values()
        head, children = self._shown_head(values)
        check_batch(images, labels, len(head) // children)
        cams = multi_scale(
            lambda view: class_activation_maps(self.backbone_(view), head),
            images.to(head.device),
            scales=tuple(values["scales"]),
            flip=values["flip"],
        )
        cams = cams.unflatten(1, (-1, children)).amax(2)  # the largest of a class's rows
        cams = cams * labels.to(cams)[:, :, None, None]  # absent classes to zero
        return MethodOutput(normalize_cams(cams).float().to(images.device))

    def _shown_head(self, values: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Return the head whose maps are read out, and how many rows of it each class has."""
        return self.head_, 1

    def _check_fitted(self) -> None:
        if not hasattr(self, "head_"):
            name = type(self).__name__
            raise RuntimeError(f"this {name} has no classifier yet; call fit(samples) or load")

    # -- files ------------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """Return the description that is saved beside the weights."""
        start = self.backbone if isinstance(self.backbone, CAMMethod) else self
        named, weights = start.backbone, start.weights
        return {
            **super().card(),
            **{name: getattr(self, name) for name in self.OPTIONS},
            "backbone": named if isinstance(named, str) else type(named).__name__,
            "weights": None if weights is None else str(weights),
            "stride": start.stride,
            "preset": self.preset,
            "classes": list(self.classes_),
        }

    @classmethod
    def _keys(cls) -> tuple[str, ...]:
        more = ("backbone", "weights", "stride", "preset", "classes")
        return (*super()._keys(), *cls.OPTIONS, *more)

    def _tensors(self) -> dict[str, Tensor]:
        return classifier_tensors(self.backbone_, self.head_)

    def _take(self, tensors: Mapping[str, Tensor], card: Mapping[str, Any], path: Any) -> None:
        restore_classifier(self.backbone_, self.head_, tensors, path)
        self.losses_ = list(card["losses"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backbone: nn.Module | None = None,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> TrainedCAM:
        """Load a trained method from its files.

        Args:
            path: as given to `save`; ``"paper"`` for the weights of the embedded world that come
                with the package, if the method has some (``python -m wsss_kit train paper-clims``
                and ``paper-sc-cam`` make them again).
            backbone: the module, where the backbone was your own.
            classes: refuse a file of another class list than this.
            **options: arguments of the constructor instead of what was saved, such as ``scales``,
                ``flip``, ``device``, or ``clip`` of CLIMS, which is not in the file and needed
                only to train.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file is damaged, of another method or version, of other classes, or
                of another backbone.
        """
        path = cls.SHIPPED if path == "paper" and cls.SHIPPED else path
        tensors, card = cls._read(path)
        if classes is not None:
            check_classes(card, classes, path)
        saved = {name: card[name] for name in (*cls.OPTIONS, "backbone", "stride", "preset")}
        saved["scales"] = None if saved["scales"] is None else tuple(saved["scales"])
        if backbone is not None:  # a module has its stride already
            saved |= {"backbone": backbone, "stride": None}
        method = cls(**{**saved, **cls._more_arguments(card), **options})
        method._begin_as(card)
        method._take(tensors, card, path)
        method.weights = card["weights"]  # a new fit begins with these
        method.backbone_.eval()
        return method

    @classmethod
    def _more_arguments(cls, card: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments of the constructor that the card has in another form."""
        return {}

    def _begin_as(self, card: Mapping[str, Any]) -> None:
        """Build the networks that a card describes."""
        self._begin(card["classes"], 0)

    # -- checkpoints ------------------------------------------------------------------------

    def _place(
        self,
        path: str | Path | None,
        samples: Sequence[Sample],
        recipe: Mapping[str, Any],
        baseline: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Place | None:
        """Return a checkpoint's path and what has to agree for it to be one of this run.

        Args:
            path: of the checkpoint, or None.
            samples: the training set.
            recipe: of the training; how maps are read out and whether bars are shown may differ.
            baseline: from `_baseline`.
            **more: what else has to agree.
        """
        if path is None:
            return None
        free = ("shown", "scales", "flip", "pretrained", *self.FREE)
        card, start = self.card(), None
        if isinstance(self.backbone, CAMMethod):  # known by its head
            head = self.backbone.head_.detach().float().cpu().contiguous()
            start = hashlib.sha256(head.numpy().tobytes()).hexdigest()[:16]
        return path, {
            **{key: card[key] for key in ("backbone", "weights", "stride", "preset")},
            **{key: value for key, value in recipe.items() if key not in free},
            "pictures": len(samples),
            "data": fingerprint(samples),
            "start": start,
            "baseline": baseline and {k: v for k, v in baseline.items() if k != "shown"},
            **more,
        }
