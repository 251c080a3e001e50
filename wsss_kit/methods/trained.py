"""What CAM, SC-CAM and CLIMS share: a backbone with a linear head whose maps are read out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.backbones import build_backbone, warn_of_random_weights
from wsss_kit.cam import class_activation_maps, multi_scale, normalize_cams
from wsss_kit.checks import check_count, check_device, check_given, check_scales, chosen_device
from wsss_kit.classes import Sample, classes_of
from wsss_kit.engine import Data, batch_norms, device_of
from wsss_kit.files import check_classes, digest_of
from wsss_kit.methods.base import CAMMethod, MethodOutput, Recipe, check_batch, preset_values
from wsss_kit.processes import mean_count
from wsss_kit.views import LabelledImages, mean_colour

OwnCAM = TypeVar("OwnCAM", bound="TrainedCAM")  # of a method: its own class


class TrainedCAM(CAMMethod):
    """A backbone with a linear head whose class activation maps are read out.

    A subclass names itself, its presets and its options. The constructor takes the arguments of
    `CAM`.
    """

    VERSION = 3
    OPTIONS: ClassVar[tuple[str, ...]] = ("scales", "flip")
    SAVED = ("backbone", "weights", "stride", "preset", "classes")
    SHIPPED: ClassVar[Path | None] = None
    """Weights for the embedded world in the package."""
    backbone: str | nn.Module
    backbone_: Any  # a backbone, see `build_backbone`
    head_: Tensor

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
        super().__init__()
        preset_values(self.PRESETS, preset, {})
        check_given(check_count, stride=stride)
        if scales is not None:
            check_scales(scales)
        check_device(device)
        self.keep(backbone=backbone)
        self.weights, self.stride, self.device = weights, stride, device
        self.scales, self.flip, self.preset = scales, flip, preset

    # -- training ---------------------------------------------------------------------------

    def values(self, **given: Any) -> dict[str, Any]:
        """Return the preset's values, replaced by the constructor's and the given arguments."""
        # whether the training begins with weights that were trained before
        pretrained = self.weights is not None or isinstance(self.backbone, nn.Module)
        return {**super().values(**given), "pretrained": pretrained}

    def begin(self, samples: Sequence[Sample], recipe: dict[str, Any]) -> None:
        """Build a backbone and a head, or copy those of a fitted CAM."""
        if isinstance(self.backbone, str):
            warn_of_random_weights("the classifier", self.backbone, self.weights)
        self.build(classes_of(samples), recipe["seed"])

    def build(self, classes: Sequence[str], seed: int, trained: CAMMethod | None = None) -> None:
        """Build a backbone and a head (C, D), or take those of a CAM.

        Args:
            classes: C names.
            seed: of new weights.
            trained: a CAM to begin with; None for new weights, or the fitted CAM that was given.
                A given one is copied.

        Raises:
            RuntimeError: if the CAM is not fitted.
            ValueError: if it knows other classes.
        """
        given = self.backbone if isinstance(self.backbone, CAMMethod) else None
        start: Any = trained or given
        if start is None:
            options: dict[str, Any] = {"stride": self.stride, "weights": self.weights}
            backbone: Any = build_backbone(self.backbone, **options, seed=seed)
            if isinstance(self.backbone, str):  # a module stays where it is
                backbone = backbone.to(chosen_device(self.device))
            head = new_head(len(classes), backbone.out_channels, seed=seed).to(device_of(backbone))
        elif not hasattr(start, "head_"):
            raise RuntimeError("the CAM to start from is not fitted; call its fit(samples)")
        elif tuple(known := start.classes_) != tuple(classes):
            raise ValueError(
                f"the CAM to start from knows {', '.join(known[:4])}, … and what is to be "
                f"learned is {', '.join(classes[:4])}, …; expected the same classes"
            )
        else:
            backbone, head = start.backbone_, start.head_.detach().clone()
            backbone = copy.deepcopy(backbone) if start is given else backbone
        self.backbone_, self.head_ = backbone, nn.Parameter(head)
        self.classes_, self.losses_ = tuple(classes), []

    def data(self, samples: Sequence[Sample], recipe: Recipe) -> Data:
        """Return random views of the images with their labels."""
        return LabelledImages(samples, **self._view(recipe))

    def _view(self, recipe: Recipe) -> dict[str, Any]:
        fill = mean_colour(self.backbone_)
        return {"crop": recipe["crop"], "long_side": recipe["long_side"], "fill": fill}

    def logits(self, images: Tensor) -> Tensor:
        """Compute class scores (B, C) of images (B, 3, H, W)."""
        return self.backbone_(images).mean((2, 3)) @ self.head_.T

    def heads(self) -> list[Tensor]:
        """Return what learns ``head_factor`` times faster than the backbone."""
        return [self.head_]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the backbone, without what the recipe leaves as it is, and the heads."""
        recipe = self.numbers
        kept = [] if recipe["trains_stem"] else [getattr(self.backbone_, "stem", nn.Module())]
        kept += [] if recipe.get("trains_norms", True) else batch_norms(self.backbone_)
        fixed = {id(p) for layer in kept for p in layer.parameters()}
        learning = [p for p in self.backbone_.parameters() if id(p) not in fixed]
        heads = {"params": self.heads(), "lr_scale": recipe["head_factor"]}
        return [{"params": learning}, heads]

    def fixed(self) -> list[nn.Module]:
        """Return the layers of batch normalisation where their statistics are kept."""
        recipe = self.numbers
        return batch_norms(self.backbone_) if recipe["fixed_batch_norm"] else []

    # -- maps -------------------------------------------------------------------------------

    @torch.no_grad()
    def forward(self, images: Tensor, labels: Tensor) -> MethodOutput:
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
        return MethodOutput(self._maps(images, labels, grid=4))

    @torch.no_grad()
    def full_maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute the maps at the size of the images.

        A backbone's last cells reach beyond the image where its stride does not divide the sides.
        So the maps of every view are enlarged to the sides rounded up to a multiple of the stride
        and cut to the image, as in CLIMS's ``make_clims.py``.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.

        Returns:
            (B, C, H, W) in [0, 1], each divided by its maximum.
        """
        return self._maps(images, labels, grid=None)

    def _maps(self, images: Tensor, labels: Tensor, grid: int | None) -> Tensor:
        """Compute maps on a grid of so many pixels a cell, or at the size of the images."""
        self._check_fitted()
        values = self.values()
        head, children = self.shown_head(values)
        check_batch(images, labels, len(head) // children)
        cams = multi_scale(
            lambda view: class_activation_maps(self.backbone_(view), head),
            images.to(head.device, head.dtype),
            scales=tuple(values["scales"]),
            flip=values["flip"],
            stride=grid,
            round_to=values.get("round_to") or getattr(self.backbone_, "stride", 16),
        )
        cams = cams.unflatten(1, (-1, children)).amax(2)  # the largest of a class's rows
        cams = cams * labels.to(cams)[:, :, None, None]  # absent classes to zero
        return normalize_cams(cams).float().to(images.device)

    def shown_head(self, values: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Return the head whose maps are read out, and how many rows of it each class has."""
        return self.head_, 1

    def _check_fitted(self) -> None:
        if not hasattr(self, "head_"):
            name = type(self).__name__
            raise RuntimeError(f"this {name} has no classifier yet; call fit(samples) or load")

    # -- files ------------------------------------------------------------------------------

    @property
    def classes(self) -> list[str]:
        """Names of the classes that were learned."""
        return list(self.classes_)

    def card(self) -> dict[str, Any]:
        """Return the description that is saved with the weights."""
        start = self.backbone if isinstance(self.backbone, CAMMethod) else self
        named, weights = start.backbone, start.weights
        return {
            **super().card(),
            "backbone": named if isinstance(named, str) else type(named).__name__,
            "weights": None if weights is None else str(weights),
            "stride": start.stride,
        }

    @classmethod
    def load(
        cls: type[OwnCAM],
        path: str | Path,
        *,
        backbone: nn.Module | None = None,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> OwnCAM:
        """Load a trained method from its file, or from the pair of files of an older version.

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
        if backbone is not None:  # a module has its stride already
            options |= {"backbone": backbone, "stride": None}
        method: Any = super().load(path, expected=classes, **options)
        return method

    @classmethod
    def _built(
        cls: type[OwnCAM], card: Mapping[str, Any], path: Any, options: dict[str, Any]
    ) -> OwnCAM:
        expected = options.pop("expected", None)
        if expected is not None:
            check_classes(card, expected, path)
        saved = {name: card[name] for name in (*cls.OPTIONS, "backbone", "stride", "preset")}
        saved["scales"] = None if saved["scales"] is None else tuple(saved["scales"])
        method = cls(**{**saved, **cls._more_arguments(card), **options})
        method.build_as(card)
        method.weights = card["weights"]  # a new fit begins with these
        return method

    @classmethod
    def _more_arguments(cls, card: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments of the constructor that the card has in another form."""
        return {}

    def build_as(self, card: Mapping[str, Any]) -> None:
        """Build the networks that a card describes."""
        self.build(card["classes"], 0)

    @classmethod
    def _upgraded(
        cls, tensors: dict[str, Tensor], card: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if card.get("version") != 2:
            return tensors, card
        # before 0.3 a file named its tensors "head" and "backbone.NAME"
        renamed = {}
        for name, tensor in tensors.items():
            first, dot, rest = name.partition(".")
            renamed[f"{first}_{dot}{rest}"] = tensor
        return renamed, {**card, "version": cls.VERSION}

    def identity(self) -> dict[str, Any]:
        """Return a mark of the CAM that the training starts from: its head."""
        if not isinstance(self.backbone, CAMMethod):
            return {}
        head: Any = self.backbone.head_
        return {"start": digest_of(head.detach().float().cpu().contiguous().numpy().tobytes())}


def new_head(rows: int, dimensions: int, *, seed: int, xavier: bool = False) -> Tensor:
    """Create an untrained head: (rows, D).

    Args:
        rows: C classes, or C * k sub-categories.
        dimensions: how many there are, D.
        seed: of its weights.
        xavier: whether they are uniform in +-sqrt(6 / (rows + D)), as in SC-CAM's released code,
            or normal with a deviation of 0.01.
    """
    random = torch.Generator().manual_seed(seed)
    if not xavier:
        return torch.randn(rows, dimensions, generator=random) * 0.01
    bound = (6 / (rows + dimensions)) ** 0.5
    return bound * (2 * torch.rand(rows, dimensions, generator=random) - 1)


def soft_margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean binary logistic loss over images and classes.

    Args:
        logits: (B, C).
        labels: (B, C) of 0 and 1.

    Returns:
        A scalar; of several processes this one's part of the whole batch's mean.
    """
    summed = F.multilabel_soft_margin_loss(logits.float(), labels, reduction="sum")
    return summed / mean_count(torch.tensor(float(len(logits)), device=logits.device))
