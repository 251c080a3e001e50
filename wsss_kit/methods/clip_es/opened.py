"""An opened image: prompts, classes and templates change, the backbone has run.

The gradient of a text's logit depends on this text and the image alone. So each text's weights
are kept, and every map is a combination of them: a new prompt costs its own encoding and one
gradient, or after `OpenedImage.prepare` the product of a row with a matrix; switching a prompt
off or on costs a sum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from wsss_kit.affinity import BalancedWalk, box_masks
from wsss_kit.checks import check_probability
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.clip_es.refined import RefinedMaps
from wsss_kit.methods.clip_es.views import (
    SINKHORN,
    View,
    affinity_of,
    logits_of,
    merged,
    probability_weights,
    raw_maps,
    run_views,
    scaled,
    wide,
)
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import checked_words

MOST_KNOWN = 200  # texts kept for an image beside those of the current call; the oldest go first
Key = tuple[str, ...]  # the texts of one phrase


class OpenedImage:
    """An image whose backbone has run, and what is known of it; `CLIPES.open` makes it.

    Args:
        method: a `CLIPES`, with the model, the prompts to begin with and the options; where the
            affinity is weighed by class distributions, it depends on the prompts as well, and an
            edit costs more.
        images: (1, 3, H, W) RGB in [0, 1].
        classes: names of the classes present.
    """

    def __init__(self, method: CAMMethod, images: Tensor, classes: Sequence[str]) -> None:
        self.clip, self.prompts, self.size = method.clip, method.prompts, tuple(images.shape[2:])
        self.classes = checked_words(list(classes), "classes", among=self.prompts.classes)
        options = method._options()
        self._target, self._distribution = method.target, options.pop("distribution")
        self._squarings, self._clamp = method.walk_squarings, method.clamp_boxes
        views = list(run_views(self.clip, images, **options))
        self._seen = [_Seen(view, float(self.clip.logit_scale)) for view in views]
        self._walked: tuple[list[Key], BalancedWalk] | None = None

    def prepare(self) -> OpenedImage:
        """Make every edit cheap: compute the derivative for any text, see `LastBlock.prepare`.

        Takes about as long as opening the image did.

        Returns:
            Itself.
        """
        for seen in self._seen:
            seen.view.last.prepare()
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
        """Compute CLIP-ES's maps of the image with these prompts.

        Args:
            prompts: None for those it was opened with.
            classes: names of the classes present, in any order; None for those it was opened with.
            without: background prompts that are switched off.
            box_threshold: share of a map's maximum that is inside its box.

        Returns:
            `RefinedMaps`, one map for each of ``classes`` in their order.

        Raises:
            ValueError: if a class or a background is not among those of the prompts, or the
                threshold leaves [0, 1].
        """
        check_probability("box_threshold", box_threshold)
        keys, features, n_classes = self._texts(prompts, classes, without)
        views = [seen.maps(keys, features, n_classes, self._target) for seen in self._seen]
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
        """Compute which prompt each cell is most similar to: the softmax of every patch by itself.

        Maps come from the softmax of the whole image. This is the same competition in each cell,
        by the patch's own embedding; the mean of these embeddings is that of the image.

        Args:
            prompts: as for `maps`, and so the next two.
            classes: names of the classes present.
            without: background prompts that are switched off.

        Returns:
            (T, h, w) probabilities, the classes first, then the backgrounds that are on; they sum
            to 1 in every cell.
        """
        _, features, _ = self._texts(prompts, classes, without)
        claims = []
        for seen in self._seen:
            (logits,) = seen.view.patch_logits(seen.scale, [features])  # (N, T)
            claims.append(seen.view.put_back(logits.softmax(-1).T.unflatten(1, seen.view.grid)))
        return merged(claims)

    def _walk(self, keys: list[Key], features: Tensor) -> BalancedWalk:
        """Return the affinity's walk: one for all prompts, or by their distributions for these."""
        keys = keys if self._distribution else []
        if self._walked is None or self._walked[0] != keys:
            views, texts = [seen.view for seen in self._seen], [(features, features[:0])]
            affinity = affinity_of(self.clip, views, texts, distribution=self._distribution)
            self._walked = keys, BalancedWalk(affinity, sinkhorn=SINKHORN)
        return self._walked[1]

    def _texts(
        self, prompts: Prompts | None, classes: Sequence[str] | None, without: Collection[str]
    ) -> tuple[list[Key], Tensor, int]:
        """Return keys and unit embeddings (T, E), classes first, and the number of classes."""
        prompts = self.prompts if prompts is None else prompts
        names = list(self.classes if classes is None else classes)
        names = checked_words(names, "classes", among=prompts.classes)
        if without:
            checked_words(list(without), "without", among=prompts.backgrounds)
        of_class = dict(zip(prompts.classes, prompts.class_sentences(), strict=True))
        keys = [of_class[name] for name in names]
        if self._target != "classes":
            texts = zip(prompts.backgrounds, prompts.background_sentences(), strict=True)
            keys += [key for word, key in texts if word not in without]
        return keys, self.clip.encode_sentences(keys), len(names)


class _Seen:
    """One view of the image, and the weights of every text so far."""

    def __init__(self, view: View, scale: float) -> None:
        self.view, self.scale = view, scale
        self.embedding = wide(view.last.embedding[0])
        self._known: dict[Key, Tensor] = {}  # the text's weights (D,)

    def maps(
        self, keys: Sequence[Key], features: Tensor, n_classes: int, target: str
    ) -> tuple[Tensor, Tensor]:
        """Compute scaled maps (C, h, w) of the first texts, and probabilities of all (T,)."""
        last = self.view.last
        logits, slopes = logits_of(self.embedding, features, self.scale)
        probs = logits.softmax(0)
        combine = torch.eye(n_classes, len(keys)).to(probs)
        if target != "logit":
            combine = probability_weights(probs, n_classes)  # (C, T)
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new and (last.prepared or len(new) <= n_classes):  # one by one, and kept
            weights = wide(last.mean_gradients(slopes[None, new])[0])
            self._known.update(zip((keys[i] for i in new), weights, strict=True))
            for key in [key for key in self._known if key not in keys][:-MOST_KNOWN]:
                del self._known[key]
            new = []
        old = [i for i, key in enumerate(keys) if key in self._known]
        weights = probs.new_zeros(n_classes, last.normed.shape[2])
        if old:
            weights = combine[:, old] @ torch.stack([self._known[keys[i]] for i in old])
        if new:
            weights = weights + last.mean_gradients((combine[:, new] @ slopes[new])[None])[0]
        raw = raw_maps(self.view, weights[None].to(last.normed))
        return self.view.put_back(scaled(raw[0])), probs.float()
