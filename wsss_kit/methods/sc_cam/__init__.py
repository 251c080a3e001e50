"""SC-CAM: classes found to have sub-categories, and a CAM that is asked about these too.

Chang et al., "Weakly-Supervised Semantic Segmentation via Sub-category Exploration", CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsss_kit.backbones import build_backbone
from wsss_kit.checks import check_count, check_given, check_not_negative, check_word
from wsss_kit.classes import Sample, classes_of, labels_of
from wsss_kit.methods.base import CAMMethod, Recipe
from wsss_kit.methods.cam import first_classifier
from wsss_kit.methods.sc_cam.clusters import class_features, kmeans, subcategory_labels
from wsss_kit.methods.sc_cam.look import (
    agreement,
    exemplars,
    listed,
    name_subcategories,
    plane,
    purity,
    stability,
)
from wsss_kit.methods.sc_cam.train import (
    FEATURES,
    PRESETS,
    READ_OUTS,
    check_subcategories,
    drop,
    epochs_of_rounds,
    jitter,
    joint_loss,
)
from wsss_kit.methods.trained import TrainedCAM, new_head
from wsss_kit.processes import rank, total
from wsss_kit.views import LabelledImages


class SCCAM(TrainedCAM):
    """A CAM trained to tell apart sub-categories that were found by clustering, in rounds.

    Args:
        backbone: a fitted `CAM`, whose backbone and head give the first features; or a name or a
            module as for `CAM`, and a classifier is trained first.
        n_subcategories: k, clusters of every class.
        rounds: how often to cluster and train.
        subcategory_weight: lambda, of the sub-categories' loss; 0 trains as long without it, as a
            control.
        features: what is clustered, ``"picture"`` (published) or ``"own_map"``.
        read_out: whose maps are shown, ``"parent"`` (published) or ``"children"``: of each class
            the largest of its sub-categories' maps.
        restart_each_round: whether a round begins where the first did, so that only the
            sub-categories carry over (published), or where the last ended.
        **network: further arguments of `CAM`: ``weights``, ``stride``, ``scales``, ``flip``,
            ``device``, and ``preset``: ``"reference"`` or ``"clean"``, see ``train.PRESETS``; an
            argument that is None takes its value.

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
    SAVED = (*TrainedCAM.SAVED, "k")
    FREE = ("read_out", "epochs", "subcategories", "on_round", "origin")
    SHIPPED = Path(__file__).with_name("paper_sc_cam.safetensors")

    def __init__(
        self,
        backbone: str | nn.Module | CAMMethod = "resnet50",
        *,
        n_subcategories: int | None = None,
        rounds: int | None = None,
        subcategory_weight: float | None = None,
        features: str | None = None,
        read_out: str | None = None,
        restart_each_round: bool | None = None,
        **network: Any,
    ) -> None:
        super().__init__(backbone, **network)
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
        baseline: Mapping[str, Any] | None = None,
        subcategories: Tensor | None = None,
        on_round: Callable[[int, SCCAM], None] | None = None,
        **training: Any,
    ) -> SCCAM:
        """Cluster and train, round after round.

        Args:
            samples: M images with labels; ``samples.classes`` names the classes if it is there.
            epochs: of every round, or one number a round.
            baseline: of the classifier that is trained first where ``backbone`` is no fitted CAM:
                ``epochs``, ``batch_size`` or ``learning_rate`` instead of the usual ones. Its
                checkpoint is called like that of SC-CAM with ``-classifier`` at the end.
            subcategories: (M, C * k) of 0 and 1, to train on for one round instead of clusters:
                what is known of the images, as an upper bound.
            on_round: called with the number of rounds done and this method, after each.
            **training: arguments of `Learner.fit`. Photographs need a ``crop`` (224 in the
                released code, with ``long_side`` 256 to 512).

        Returns:
            Itself, with ``backbone_``, ``head_`` (C, D), ``sub_head_`` (C * k, D), ``classes_``,
            ``subcategories_`` (M, C * k) of the last round, ``rounds_``, those of every round, and
            ``losses_``, one dictionary an epoch with ``parent``, ``sub`` and ``total``.

        Raises:
            ValueError: as `Learner.fit`.
            RuntimeError: if the CAM to start from is not fitted.
            Diverged: if the loss runs away.
        """
        values = super().values()
        rounds = 1 if subcategories is not None else values["rounds"]
        epochs = epochs_of_rounds(epochs, values["epochs"], rounds)
        own: dict[str, Any] = {"baseline": baseline, "subcategories": subcategories}
        own |= {"on_round": on_round, "epochs": max(epochs), "epochs_of_rounds": epochs}
        return super().fit(samples, **own, **training)

    def values(self, **given: Any) -> dict[str, Any]:
        """Return the preset's values, replaced by the constructor's and the given arguments."""
        names = ("baseline", "subcategories", "on_round", "epochs_of_rounds")
        own = {name: given.pop(name, None) for name in names}
        return {**super().values(**given), **own}

    def begin(self, samples: Sequence[Sample], recipe: dict[str, Any]) -> None:
        """Train the classifier that gives the first features, or copy a fitted one."""
        given, k = recipe["subcategories"], recipe["n_subcategories"]
        if given is not None:
            k = check_subcategories(given, labels_of(samples))
        recipe |= {"k": k, "clustered": given is None}
        from_backbone = recipe["starts_from"] == "trunk"
        origin = self._untrained(recipe["seed"]) if from_backbone else None
        whole = {"train_backbone": recipe["first_classifier"] == "whole"}
        cam = first_classifier(self, samples, recipe, recipe["baseline"], **whole)
        self.build(classes_of(samples), recipe["seed"], trained=cam, k=k)
        if origin is None:
            origin = {**self.backbone_.state_dict(), "head": self.head_}
        recipe["origin"] = {name: v.detach().cpu().clone() for name, v in origin.items()}

    def build(
        self,
        classes: Sequence[str],
        seed: int,
        trained: CAMMethod | None = None,
        k: int | None = None,
    ) -> None:
        """Build backbone and heads for k sub-categories of each class."""
        super().build(classes, seed, trained=trained)
        self.k_, self.rounds_ = k or self.values()["n_subcategories"], []
        self.sub_head_ = nn.Parameter(self._new_head(len(classes) * self.k_, seed))

    def build_as(self, card: Mapping[str, Any]) -> None:
        """Build the networks that a card describes."""
        self.build(card["classes"], 0, k=card["k"])

    def _new_head(self, rows: int, seed: int) -> Tensor:
        xavier = self.values()["xavier_heads"]
        return new_head(rows, self.head_.shape[1], seed=seed, xavier=xavier).to(self.head_.device)

    def _untrained(self, seed: int) -> dict[str, Tensor]:
        """Return the backbone's weights before any classifier; those of a fitted CAM built anew.

        Raises:
            ValueError: for a fitted CAM on a module, whose first weights are lost.
        """
        start: Any = self.backbone if isinstance(self.backbone, CAMMethod) else self
        backbone = start.backbone
        if isinstance(backbone, nn.Module) and start is not self:
            raise ValueError(
                "preset reference begins every round with the backbone before any classifier, "
                "which a fitted CAM on a module of your own no longer has; give the module "
                'itself, or take preset="clean"'
            )
        if isinstance(backbone, str):
            options = {"stride": start.stride, "weights": start.weights, "seed": seed}
            backbone = build_backbone(backbone, **options)
        return backbone.state_dict()

    def learn(self, samples: Sequence[Sample], recipe: Recipe, **options: Any) -> None:
        """Train the rounds, one after the other."""
        place, first = self.place(recipe, 0), 0
        done = place.stored_part if place else -1
        if place and place.stored:
            self.set_extra_state(place.stored[0]["_extra_state"])
        for number, epochs in enumerate(recipe["epochs_of_rounds"]):
            if done < number:
                self._begin_round(samples, number, recipe)
            if done <= number:
                self.recipe = {**recipe, "epochs": epochs, "first_pass": first}
                what = {"part": number, "what": f"SC-CAM, round {number + 1}"}
                super().learn(samples, self.recipe, **what, **options)
                if recipe["on_round"] is not None:
                    recipe["on_round"](number + 1, self)
            first += epochs

    def _begin_round(self, samples: Sequence[Sample], number: int, recipe: Recipe) -> None:
        """Cluster what the network computes now, then put it where the round begins."""
        if recipe["subcategories"] is not None:
            found = recipe["subcategories"].float().cpu()
        else:
            features = self.features_of(samples, progress=recipe["shown"])
            options = {"k": self.k_, "seed": recipe["seed"], "engine": recipe["k_means"]}
            found = subcategory_labels(features, labels_of(samples), **options).cpu()
        # each process has clustered on its own device; those of the first count
        self.rounds_.append(total(found if rank() == 0 else torch.zeros_like(found)))
        if number == 0 or recipe["restart_each_round"]:
            origin = dict(recipe["origin"])
            head = origin.pop("head", None)
            self.backbone_.load_state_dict(origin)
            with torch.no_grad():
                new = self._new_head(len(self.head_), recipe["seed"]) if head is None else head
                self.head_.copy_(new)
        with torch.no_grad():
            self.sub_head_.copy_(self._new_head(len(self.sub_head_), recipe["seed"]))

    def data(self, samples: Sequence[Sample], recipe: Recipe) -> LabelledImages:
        """Return random views of the images with their labels and sub-categories."""
        change = recipe["jitter"] and partial(jitter, amounts=recipe["jitter"])
        options = {"change": change, "more_labels": self.subcategories_}
        return LabelledImages(samples, **self._view(recipe), **options)

    def heads(self) -> list[Tensor]:
        """Return both heads."""
        return [self.head_, self.sub_head_]

    def loss(self, images: Tensor, labels: Tensor, subcategories: Tensor) -> dict[str, Tensor]:
        """Compute the losses of both heads.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) of 0 and 1.
            subcategories: (B, C * k) of 0 and 1.

        Returns:
            ``parent``, ``sub`` and ``total``, see `joint_loss`.
        """
        recipe = self.numbers
        pooled = drop(self.backbone_(images).mean((2, 3)).float(), recipe["dropout"])  # (B, D)
        weight, heads = recipe["subcategory_weight"], (self.head_, self.sub_head_)
        return joint_loss(pooled, *heads, labels, subcategories, weight=weight)

    @property
    def subcategories_(self) -> Tensor:
        """Those of the last round: (M, C * k) of 0 and 1."""
        return self.rounds_[-1] if self.rounds_ else torch.zeros(0, len(self.sub_head_))

    @property
    def k(self) -> int:
        """How many sub-categories a class has."""
        return self.k_

    def get_extra_state(self) -> Tensor:
        """Return the sub-categories of every round, (R, M, C * k), to look at them later."""
        return torch.stack(self.rounds_).byte() if self.rounds_ else torch.zeros(0).byte()

    def set_extra_state(self, state: Tensor) -> None:
        """Take the sub-categories of every round."""
        self.rounds_ = list(state.float())

    # -- maps -------------------------------------------------------------------------------

    def shown_head(self, values: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Return the parents' head, or the children's with k rows a class."""
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
        values = self.values()
        options = {"features": values["features"], "unit_length": values["unit_length"]}
        head = self.head_.detach()
        return class_features(self.backbone_, head, samples, **options, shown=progress)

    # -- files ------------------------------------------------------------------------------

    @classmethod
    def _upgraded(
        cls, tensors: dict[str, Tensor], card: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        rounds = [tensors[name] for name in sorted(tensors) if name.startswith("round.")]
        if card.get("version") == 2:
            tensors = {k: v for k, v in tensors.items() if not k.startswith("round.")}
        tensors, card = super()._upgraded(tensors, card)
        if rounds:
            tensors["_extra_state"] = torch.stack(rounds)
        return {"_extra_state": torch.zeros(0).byte(), **tensors}, card
