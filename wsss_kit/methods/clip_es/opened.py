"""CLIP-ES of one image: from its pixels to refined maps, or opened while prompts change.

The gradient of a text's logit depends on this text and the image alone. So each text's weights
are kept, and every map is a combination of them: a new prompt costs its own encoding and one
gradient, or after `OpenedImage.prepare` the product of a row with a matrix; switching a prompt
off or on costs a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Sized
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wsss_kit.affinity import BalancedWalk, box_masks
from wsss_kit.cam import (
    Texts,
    logits_of,
    normalize_cams,
    probability_weights,
    raw_maps,
    upsample,
    wide,
)
from wsss_kit.checks import check_probability
from wsss_kit.engine import columns
from wsss_kit.methods.clip_es.views import (
    EPS,
    SINKHORN,
    View,
    affinity_of,
    merged,
    run_views,
    scaled,
)
from wsss_kit.prompts import Prompts
from wsss_kit.prompts.checks import checked_words

PRESETS = columns(
    ("reference", "clean", "plus"),
    {
        # Reference: the released code rounds the resized position embedding to half precision, even
        # where the rest runs in full precision.
        "round_positions": (True, False, False),
        # Reference: boxes are clamped so that they miss the last row and column. This pays where
        # objects seldom touch the border.
        "clamp_boxes": (True, False, True),
        # Reference: a flipped image is made and left out. It gains half a point to one on the
        # embedded world's val.
        "flip": (False, True, True),
        # "plus" goes beyond the paper, without training: maps of a larger image as well, the
        # similarity of values as affinity (after ExCEL, CVPR 2025), weighed by the class
        # distributions of the cells (after CD-CLIP, CVPR 2026). All of it was chosen on the
        # embedded world's val, and what the papers gained on photographs with their models is not
        # measured here.
        "scales": ((1.0,), (1.0,), (1.0, 1.5)),
        "similarity": ("queries", "queries", "values"),
        "distribution": (False, False, True),
    },
)
"""Every choice in which the released CLIP-ES and this kit differ; the recipes look at the preset
too, because the released code's CRF gets images that wrap around."""


class RefinedMaps(NamedTuple):
    """All that CLIP-ES computes for one image.

    Args:
        cams: (C, h, w) softmax Grad-CAM in [0, 1], one cell a patch.
        refined: (C, h, w) after box mask and walk, not scaled.
        masks: (C, h, w) of 0 and 1, the boxes around the confident regions.
        attention: (N, N) mean over the heads of the last layers, rows are queries.
        probs: (C + P,) softmax over the classes, then the background prompts.
    """

    cams: Tensor
    refined: Tensor
    masks: Tensor
    attention: Tensor
    probs: Tensor

    def full_size(self, size: tuple[int, int]) -> Tensor:
        """Scale the refined maps, then resize them to the image, as the released code does.

        Args:
            size: (H, W) of the image.

        Returns:
            (C, H, W) in [0, 1].
        """
        return upsample(normalize_cams(self.refined[None], subtract_min=True, eps=EPS), size)[0]


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

    def __init__(self, method: Any, images: Tensor, classes: Sequence[str]) -> None:
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
        walk = self._walk(keys, features)
        refined, masks = _refined(walk, self._squarings, self._clamp, cams, box_threshold)
        return RefinedMaps(cams, refined, masks, walk.affinity[0].clone(), views[0][1])

    def responses(
        self, prompts: Prompts | None = None
    ) -> tuple[list[Responses], Callable[[Tensor, float], tuple[Tensor, Tensor]]]:
        """Compute once what the maps of every subset of the background words are sums of.

        Args:
            prompts: whose backgrounds are the words; None for those it was opened with.

        Returns:
            What each view gives, and the walk: maps (K, h, w) in [0, 1] and the threshold of
            their boxes to refined maps and boxes.

        Raises:
            ValueError: if maps are no softmax's, or the affinity depends on the words.
        """
        if self._target != "softmax" or self._distribution:
            problem = (
                "without a softmax over words"
                if self._target != "softmax"
                else ("with an affinity that depends on the words, as preset 'plus' has it")
            )
            advice = "use CLIPES(..., target='softmax', distribution=False)"
            raise ValueError(f"words cannot be searched {problem}; {advice}")
        keys, features, _ = self._texts(prompts, None, ())
        walk, options = self._walk(keys, features), (self._squarings, self._clamp)
        return [seen.responses(features) for seen in self._seen], partial(_refined, walk, *options)

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
            logits = seen.view.patch_logits(seen.scale, features)[0]  # (N, T)
            claims.append(seen.view.put_back(logits.softmax(-1).T.unflatten(1, seen.view.grid)))
        return merged(claims)

    def _walk(self, keys: list[Key], features: Tensor) -> BalancedWalk:
        """Return the affinity's walk: one for all prompts, or by their distributions for these."""
        keys = keys if self._distribution else []
        if self._walked is None or self._walked[0] != keys:
            texts = Texts(features, features.new_ones(1, len(features), dtype=torch.bool))
            views = [seen.view for seen in self._seen]
            affinity = affinity_of(self.clip, views, texts if self._distribution else None)
            self._walked = keys, BalancedWalk(affinity, sinkhorn=SINKHORN)
        return self._walked[1]

    def _texts(
        self, prompts: Prompts | None, classes: Sequence[str] | None, without: Collection[str]
    ) -> tuple[list[Key], Tensor, int]:
        """Return keys and unit embeddings (T, E), classes first, and the number of classes."""
        used: Any = self.prompts if prompts is None else prompts
        names = list(self.classes if classes is None else classes)
        names = checked_words(names, "classes", among=used.classes)
        if without:
            checked_words(list(without), "without", among=used.backgrounds)
        of_class = dict(zip(used.classes, used.class_sentences(), strict=True))
        keys = [of_class[name] for name in names]
        if self._target != "classes":
            texts = zip(used.backgrounds, used.background_sentences(), strict=True)
            keys += [key for word, key in texts if word not in without]
        return keys, self.clip.encode_sentences(keys), len(names)


def _refined(
    walk: BalancedWalk, squarings: int, clamp: bool, cams: Tensor, box_threshold: float
) -> tuple[Tensor, Tensor]:
    """Walk with what is inside the boxes of any maps: refined (K, h, w) and their boxes."""
    masks = box_masks(cams[None], threshold=box_threshold, clamp=clamp)
    return walk(masks * cams[None], squarings=squarings)[0], masks[0]


class Responses(NamedTuple):
    """What a view says of texts, without its backbone.

    Args:
        view: its frame alone.
        logits: (T,) of the image for each text.
        cells: (T, N), what each text's logit adds to a map before the ReLU.
    """

    view: View
    logits: Tensor
    cells: Tensor


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
            classes = torch.arange(n_classes, device=probs.device)
            combine = probability_weights(probs.expand(n_classes, -1), classes)  # (C, T)
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new and (last.prepared or len(new) <= n_classes):  # one by one, and kept
            weights = wide(last.mean_gradients(slopes[new], self._image(new)))
            self._known.update(zip((keys[i] for i in new), weights, strict=True))
            for key in [key for key in self._known if key not in keys][:-MOST_KNOWN]:
                del self._known[key]
            new = []
        old = [i for i, key in enumerate(keys) if key in self._known]
        weights = probs.new_zeros(n_classes, last.cells.shape[2])
        if old:
            weights = combine[:, old] @ torch.stack([self._known[keys[i]] for i in old])
        if new:
            directions = combine[:, new] @ slopes[new]
            weights = weights + last.mean_gradients(directions, self._image(directions))
        raw = raw_maps(last.cells, weights, self._image(weights), self.view.grid)
        return self.view.put_back(scaled(raw)), probs.float()

    def responses(self, features: Tensor) -> Responses:
        """Compute logits of texts (T, E) and what each cell adds to their maps."""
        logits, slopes = logits_of(self.embedding, features, self.scale)
        weights = wide(self.view.last.mean_gradients(slopes, self._image(slopes)))  # (T, D)
        cells = weights @ wide(self.view.last.cells[0]).T
        return Responses(self.view._replace(last=None, attention=None), logits, cells)

    def _image(self, numbers: Sized) -> Tensor:
        """Return the image of each number: there is one alone."""
        return torch.zeros(len(numbers), dtype=torch.long, device=self.embedding.device)
