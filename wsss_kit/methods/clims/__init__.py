"""CLIMS: a CAM that CLIP teaches what an object is and what only comes with it.

Xie et al., "CLIMS: Cross Language Image Matching for Weakly Supervised Semantic Segmentation",
CVPR 2022.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.cam import class_activation_maps
from wsss_kit.checks import check_count, check_given, check_not_negative, check_probability
from wsss_kit.classes import Sample, classes_of
from wsss_kit.clip import FrozenModel
from wsss_kit.engine import columns
from wsss_kit.masks import BackgroundRule
from wsss_kit.methods.base import COMMON, CAMMethod, Recipe
from wsss_kit.methods.cam import first_classifier
from wsss_kit.methods.clims.losses import (
    Judge,
    area_loss,
    background_text_loss,
    calibrate,
    check_maps,
    cooccurrence_loss,
    object_text_loss,
)
from wsss_kit.methods.trained import TrainedCAM
from wsss_kit.processes import mean_count, total, world
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import labels_for

_SCALES = (1.0, 0.5, 1.5, 2.0)
WARM_UP = 20  # steps of AdamW
_HEAVY = {"chair": 3.0, "diningtable": 3.0, "sofa": 3.0}
# Reference: the camera-ready code also puts a bottleneck between backbone and head, fine-tunes
# CLIP, and does not cut cosines off; these three are not rebuilt.
PRESETS = columns(
    ("reference", "clean", "paper"),
    {
        **{name: (*row, row[0]) for name, row in COMMON.items()},
        "otm": (10.0, 12.0, 10.0),  # loss weights: the paper's alpha, beta, gamma and delta
        "btm": (24.0, 6.0, 25.0),
        "cbs": (1.0, 6.0, 29.5),
        "reg": (0.2, 3.0, 1.15),
        "cbs_threshold": (0.26, None, None),
        "scales": (_SCALES, _SCALES, _SCALES),
        "flip": (True, True, True),
        "epochs": (15, 3, 10),
        "batch_size": (16, 16, 16),
        "learning_rate": (2.5e-4, 5e-4, 2.5e-4),
        "head_factor": (10.0, 5.0, 1.0),
        "optimiser": ("sgd", "adamw", "sgd"),
        # the released trainer hands weight decay to SGD's momentum: the real momentum is 1e-4
        "momentum": (1e-4, 0.9, 1e-4),
        "weight_decay": (1e-4, 0.01, 1e-4),
        "trains_stem": (False, True, False),  # whether the first convolution learns
        "decay": ("polynomial", "cosine", "polynomial"),
        "warmup": (0, WARM_UP, 0),
        "drop_last": (True, False, True),  # whether a pass's last, partial batch is left out
        "fixed_batch_norm": (False, True, False),  # whether its statistics stay those of the start
        # whether the sigmoid is shifted so that a class's usual maximum is 0.88 at the start
        "calibrated": (False, True, False),
        # what CLIP is shown: images masked and normalised by ImageNet's statistics, as released; by
        # CLIP's own; or RGB masked to black, which CLIP normalises itself
        "pixels": ("imagenet", "rgb", "clip"),
        "side": (224, None, 224),  # square that images and maps are resized to for CLIP
        "align_corners": (True, False, True),  # of this resizing
        # CBS: a sum over pairs and texts, the same divided by the number of pairs, or a mean over
        # texts summed over pairs
        "backgrounds": ("sum", "pairs", "texts"),
        "area": ("all", "present", "all"),  # mean of all maps, or of those of classes present
        "heavy_classes": ({}, {}, _HEAVY),  # factor on OTM and BTM of some classes
    },
)

LOSSES = ("otm", "btm", "cbs", "reg")


class CLIMS(TrainedCAM):
    """A CAM trained on by what a frozen CLIP says of the images that it masks.

    Args:
        clip: the evaluator, any `FrozenModel`; it is neither moved nor changed. None for a method
            that only reads out maps.
        backbone: a fitted `CAM`, whose backbone and head are copied and trained on; or a name or a
            module as for `CAM`, and a classifier is trained first.
        prompts: classes, background texts and, in ``class_backgrounds``, which of these come with
            which class; without any, all backgrounds count for every class, as released.
        otm: alpha, weight of the object text loss.
        btm: beta, of the background text loss.
        cbs: gamma, of the co-occurring background suppression.
        reg: delta, of the area regularisation.
        cbs_threshold: cosines up to this are no background; None takes the preset's.
        **network: further arguments of `CAM`: ``weights``, ``stride``, ``scales``, ``flip``,
            ``device``, and ``preset``: ``"reference"``, ``"paper"`` or ``"clean"``, see
            ``PRESETS``; an argument that is None takes its value.

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
    clip: FrozenModel | Any  # None where it only reads out maps
    bias_: Tensor

    def __init__(
        self,
        clip: FrozenModel | None,
        backbone: str | nn.Module | CAMMethod = "resnet50",
        *,
        prompts: Prompts,
        otm: float | None = None,
        btm: float | None = None,
        cbs: float | None = None,
        reg: float | None = None,
        cbs_threshold: float | None = None,
        **network: Any,
    ) -> None:
        super().__init__(backbone, **network)
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
        cam: Any = first_classifier(self, samples, recipe, recipe["baseline"])
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
        losses: dict[str, Any] = self.judge_.losses(images, maps, labels)
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


def propose_backgrounds(
    clip: FrozenModel,
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    most: int = 3,
    least: float = 0.1,
    template: str = "a photo of {}",
    shown: bool = True,
) -> dict[str, dict[str, float]]:
    """Find background words that CLIP sees in images of a class and hardly in others.

    For every image CLIP spreads a probability over the background words. A word's lift for a
    class is its mean probability in the images with the class minus that in the images
    without. What is common everywhere has none, however often it comes with the class.

    Args:
        clip: the model.
        samples: M images with image-level labels; some with and some without each class.
        prompts: classes and background words.
        most: words a class gets at most.
        least: lift from which on a word counts, in [0, 1].
        template: what the words are said in; those of ``prompts`` may speak of things alone.
        shown: whether to show a bar.

    Returns:
        Class -> word -> lift, the largest first; a class may have none. For CLIMS, give those
        that have some to ``prompts.replace(class_backgrounds={"boat": ["water"], ...})``.

    Raises:
        ValueError: if there are no samples, a number is out of range, or labels and classes do
            not fit.

    Example:
        >>> from wsss_kit.clip import load_clip
        >>> from wsss_kit.paperworld import PaperWorld
        >>> world, prompts = PaperWorld(40, split="train"), Prompts.paper(method="clims")
        >>> found = propose_backgrounds(load_clip("paper"), world, prompts, shown=False)
        >>> next(iter(found["boat"])), next(iter(found["cat"]))
        ('water', 'carpet')
    """
    check_count("most", most)
    check_probability("least", least)
    labels = labels_for(samples, prompts.classes)  # (M, C)
    texts = clip.encode_text(prompts.background_texts(template)).cpu()
    images = clip.encode_samples(samples, what="backgrounds", shown=shown)
    seen = (float(clip.logit_scale) * images @ texts.T).softmax(1).to(labels)  # (M, P)
    proposals = {}
    for name, having in zip(prompts.classes, labels.T > 0, strict=True):
        # NaN where no image has the class, or every one: no word counts
        lift = seen[having].mean(0) - seen[~having].mean(0)  # (P,)
        best = lift.argsort(descending=True)[:most].tolist()
        kept = [p for p in best if lift[p] >= least]
        proposals[name] = {prompts.backgrounds[p]: round(lift[p].item(), 3) for p in kept}
    return proposals
