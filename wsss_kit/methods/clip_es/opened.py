"""A picture that stays open: words, classes and templates change, the trunk has run.

The gradient of a text's logit depends on this text and the picture alone. So each text's weights
are remembered, and whatever is asked is a combination of them: a new word costs its own encoding
and one gradient, or after `OpenedPicture.prepare` a product of a row with a matrix; a word switched
off or on costs a sum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.affinity import BalancedWalk, box_masks
from wsss_kit.checks import check_probability
from wsss_kit.clip import FrozenCLIP, LastBlock
from wsss_kit.methods.clip_es.competition import logits_of, probability_weights, wide
from wsss_kit.methods.clip_es.presets import SINKHORN
from wsss_kit.methods.clip_es.refined import RefinedMaps
from wsss_kit.methods.clip_es.views import (
    Angle,
    Texts,
    affinity_of,
    merged,
    raw_maps,
    scaled,
)
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import checked_words

MOST_KNOWN = 200
"""Texts a picture remembers beside those it is asked about: the oldest go first."""
Key = tuple[str, ...]
"""The texts that say one phrase."""


class OpenedPicture:
    """One picture and what is known of it; `CLIPES.open` makes it.

    Args:
        clip: the model.
        angles: the views of the picture that the preset looks at, trunk already run.
        prompts: the words to begin with.
        classes: names of the classes present.
        target: one of ``TARGETS``.
        squarings: how often the transition is squared.
        clamp: whether boxes miss the last row and column, as the released ones do.
        distribution: whether the affinity is weighed by class distributions; it then depends on
            the words as well, and an edit costs more.
        size: (H, W) of the picture.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        angles: Sequence[Angle],
        *,
        prompts: Prompts,
        classes: Sequence[str],
        target: str,
        squarings: int,
        clamp: bool,
        distribution: bool,
        size: tuple[int, int],
    ) -> None:
        self.clip, self.prompts, self.size = clip, prompts, size
        self.classes = checked_words(list(classes), "classes", among=prompts.classes)
        self._target, self._squarings, self._clamp = target, squarings, clamp
        self._seen = [_Seen(clip, angle) for angle in angles]
        self._distribution = distribution
        self._walked: tuple[list[Key], BalancedWalk] | None = None

    def prepare(self) -> OpenedPicture:
        """Make every edit cheap: find how the picture answers to any text, as `LastBlock.prepare`.

        Takes about as long as opening the picture did.

        Returns:
            Itself.
        """
        for seen in self._seen:
            seen.last.prepare()
        self.maps()
        return self

    def maps(
        self,
        prompts: Prompts | None = None,
        *,
        classes: Sequence[str] | None = None,
        without: Collection[str] = (),
        box_threshold: float = 0.4,
    ) -> RefinedMaps:
        """What CLIP-ES makes of the picture with these words.

        Args:
            prompts: None for those it was opened with.
            classes: names of the classes present, in any order; None for those it was opened with.
            without: background words that are switched off.
            box_threshold: share of a map's maximum that is inside its box.

        Returns:
            `RefinedMaps`, one map for each of ``classes`` in their order.

        Raises:
            ValueError: if a class or a word is not among those of the prompts, or the threshold
                leaves [0, 1].
        """
        check_probability("box_threshold", box_threshold)
        prompts = self.prompts if prompts is None else prompts
        names = self.classes if classes is None else list(classes)
        names = checked_words(names, "classes", among=prompts.classes)
        keys, features = self._texts(prompts, names, without)
        views = [seen.maps(keys, features, len(names), self._target) for seen in self._seen]
        cams = scaled(merged([cams for cams, _ in views]))
        masks = box_masks(cams[None], threshold=box_threshold, clamp=self._clamp)
        walk = self._walk(keys, features)
        refined = walk(masks * cams[None], squarings=self._squarings)[0]
        return RefinedMaps(cams, refined, masks[0], walk.affinity[0], views[0][1])

    def claims(
        self,
        prompts: Prompts | None = None,
        *,
        classes: Sequence[str] | None = None,
        without: Collection[str] = (),
    ) -> Tensor:
        """Which word each cell is closest to: the softmax of every patch by itself.

        Maps come from the softmax of the whole picture; this is the same competition place by
        place, by each patch's own embedding, whose mean the picture's is.

        Args:
            prompts: as for `maps`, and so the next two.
            classes: names of the classes present.
            without: background words that are switched off.

        Returns:
            (T, h, w) probabilities, the classes first, then the words that are on; they sum to 1
            in every cell.
        """
        prompts = self.prompts if prompts is None else prompts
        names = self.classes if classes is None else list(classes)
        names = checked_words(names, "classes", among=prompts.classes)
        _, features = self._texts(prompts, names, without)
        scale, looks = float(self.clip.logit_scale), []
        for seen in self._seen:
            patches = F.normalize(seen.last.patches[0].float(), dim=-1)  # (N, E)
            probs = (scale * patches @ features.to(patches).T).softmax(-1)  # (N, T)
            looks.append(seen.angle.put_back(probs.T.unflatten(1, seen.angle.grid)))
        return merged(looks)

    def _walk(self, keys: list[Key], features: Tensor) -> BalancedWalk:
        """The affinity's walk: one for all words, or by their distributions for these."""
        keys = keys if self._distribution else []
        if self._walked is None or self._walked[0] != keys:
            looks, texts = [seen.angle for seen in self._seen], Texts(features, features[:0])
            options = {"distribution": self._distribution}
            affinity = affinity_of(self.clip, looks, [texts], **options)
            self._walked = keys, BalancedWalk(affinity, sinkhorn=SINKHORN)
        return self._walked[1]

    def _texts(
        self, prompts: Prompts, names: Sequence[str], without: Collection[str]
    ) -> tuple[list[Key], Tensor]:
        """Keys and unit embeddings (T, E), the classes first, then the words that are on."""
        if without:
            checked_words(list(without), "without", among=prompts.backgrounds)
        words = [] if self._target == "classes" else range(len(prompts.backgrounds))
        on = [i for i in words if prompts.backgrounds[i] not in without]
        classes, backgrounds = prompts.class_sentences(), prompts.background_sentences()
        keys = [classes[prompts.classes.index(name)] for name in names]
        keys += [backgrounds[i] for i in on]
        return keys, self.clip.encode_sentences(keys)


class _Seen:
    """One view of the picture, and the weights of every text that it was asked about."""

    def __init__(self, clip: FrozenCLIP, angle: Angle) -> None:
        self.clip, self.angle = clip, angle
        self.embedding = wide(angle.last.embedding[0])
        self._known: dict[Key, Tensor] = {}

    @property
    def last(self) -> LastBlock:
        return self.angle.last

    def learn(self, keys: Sequence[Key], features: Tensor) -> None:
        """Find the weights (D,) of the texts that are new."""
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            _, slopes = logits_of(self.embedding, features[new], float(self.clip.logit_scale))
            found = self.last.mean_gradients(slopes[None])[0]
            self._known.update(zip((keys[i] for i in new), wide(found), strict=True))
            for key in [key for key in self._known if key not in keys][:-MOST_KNOWN]:
                del self._known[key]

    def maps(
        self, keys: Sequence[Key], features: Tensor, n_classes: int, target: str
    ) -> tuple[Tensor, Tensor]:
        """Scaled maps (C, h, w) of the first texts, and the probabilities of all (T,)."""
        logits, slopes = logits_of(self.embedding, features, float(self.clip.logit_scale))
        probs = logits.softmax(0)
        if target == "logit":
            combine = torch.eye(n_classes, len(keys), dtype=probs.dtype, device=probs.device)
        else:
            combine = probability_weights(probs, n_classes)  # (C, T)
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if self.last.prepared or len(new) <= n_classes:  # one by one, and remembered
            self.learn(keys, features)
            new = []
        old = [i for i in range(len(keys)) if i not in set(new)]
        weights = probs.new_zeros(n_classes, self.last.normed.shape[2])
        if old:
            weights = combine[:, old] @ torch.stack([self._known[keys[i]] for i in old])
        if new:
            rest = combine[:, new] @ slopes[new]
            weights = weights + self.last.mean_gradients(rest[None])[0]
        raw = raw_maps(self.last, weights[None].to(self.last.normed), self.angle.grid)
        return self.angle.put_back(scaled(raw[0])), probs.float()
