"""Train the tiny CLIP on captions of the ``web`` split: ``python -m wsss_kit train paper-clip``.

The objective is CLIP's symmetric contrastive loss, with images of equal captions as common
positives. No mask, part or box is read. The learning rate is constant after a warm-up and falls
in a last stretch. Half the patches of every image are dropped from the first step to the last: the
text has to be read from what is left, so every patch learns to answer for itself, and maps cover
more of an object than after a last stretch on whole images. The result is the mean of the weights
over the last stretch: from one hundred steps to the next, masks made with them move by points, and
with their mean they do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel

from wsss_kit import engine
from wsss_kit.checkpoints import CHECKPOINT, Checkpoint
from wsss_kit.checks import check_count, check_positive, check_probability, check_seed
from wsss_kit.clip.texts import text_features
from wsss_kit.clip.vision import float_mask
from wsss_kit.files import save_model
from wsss_kit.paperworld import COOCCURRENCE, TORN, WEB_KINDS, page
from wsss_kit.paperworld.scenes import KINDS
from wsss_kit.paperworld.tiny_clip import (
    ARCHITECTURE,
    MEAN,
    STD,
    build,
    tie_keys,
    train_image_features,
    trained_grid,
    zero_shot_accuracy,
)
from wsss_kit.paperworld.words import UNKNOWN, WordTokenizer
from wsss_kit.views import Chance

_OPENING = re.compile(r"^(a photo of|a picture of|an image of|a clean cutout of)\s+")
_HIGHEST_SCALE = math.log(60.0)
_PATCHES_KEPT = 0.5
"""Share of the patches that a step sees."""
_PASS = 100  # steps between two entries of the log


def contents_of(captions: Sequence[str]) -> Tensor:
    """Number captions by their content: (B,) int64, equal where all but the opening is equal.

    Example:
        >>> contents_of(["a photo of a cat", "fog", "a cat"]).tolist()
        [0, 1, 0]
    """
    contents = [_OPENING.sub("", text) for text in captions]
    return torch.tensor([contents.index(text) for text in contents])


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, contents: Tensor) -> Tensor:
    """Compute CLIP's loss with every image of an equal caption as a positive.

    Args:
        images: (B, D) unit image embeddings.
        texts: (B, D) unit text embeddings.
        scale: factor on the cosine.
        contents: (B,) of `contents_of`.

    Returns:
        Scalar, the mean of both directions' cross-entropies.
    """
    targets = (contents[:, None] == contents).float().to(images.device)  # (B, B)
    targets = targets / targets.sum(1, keepdim=True)
    logits = scale * images @ texts.T
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


class WebImages:
    """Images of the ``web`` split with their captions, drawn anew in every pass; see `engine.fit`.

    Args:
        n: images of a pass.
        seed: which world.
        size: side in pixels.
        torn: probability that an object has lost its signature part, in [0, 1].
    """

    def __init__(self, n: int, seed: int, size: int, *, torn: float) -> None:
        self.n, self.world = n, (seed, size, torn)
        self.tokenizer = WordTokenizer()

    def __len__(self) -> int:
        return self.n

    def batch(self, numbers: Sequence[int], chance: Chance) -> list[Tensor]:
        """Return images (B, 3, H, W) uint8, ids of captions (B, T) and `contents_of` these."""
        seed, size, torn = self.world
        draw = page.__wrapped__  # without its cache
        options = {"size": size, "cooccurrence": COOCCURRENCE["web"], "torn": torn}
        pages = [draw("web", seed, chance(1 + n).initial_seed(), **options) for n in numbers]
        images = torch.from_numpy(np.stack([p.drawing.image for p in pages]))
        captions = [p.caption for p in pages]
        return [images.permute(0, 3, 1, 2), self.tokenizer(captions), contents_of(captions)]


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in half precision, those of integers as they are."""
    return {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}


class Pretraining(nn.Module):
    """A resumable training run in a folder.

    Args:
        folder: where the checkpoint and the log go.
        steps: optimiser steps of the whole run.
        batch: images per step.
        seed: seeds the weights, the dropped patches and the world the images come from.
        learning_rate: of AdamW.
        fall: share of the steps, at the end, over which the learning rate falls to 0.
        workers: processes that draw images.
        device: where to train.
        torn: how often an object of the images has lost its signature part, in [0, 1].

    Raises:
        ValueError: if a number is out of range.
    """

    model: Any  # open_clip's
    mask: Tensor

    def __init__(
        self,
        folder: str | Path,
        *,
        steps: int,
        batch: int = 128,
        seed: int = 0,
        learning_rate: float = 1.3e-3,
        fall: float = 0.2,
        workers: int = 1,
        device: str = "cpu",
        torn: float = TORN["web"],
    ) -> None:
        super().__init__()
        check_count("steps", steps)
        check_count("batch", batch)
        check_seed(seed)
        check_count("workers", workers, least=0)
        check_probability("fall", fall)
        check_probability("torn", torn)
        check_positive("learning_rate", learning_rate)
        self.folder = Path(folder)
        self.run_of = {"steps": steps, "batch": batch, "seed": seed, "fall": fall}
        self.run_of |= {"torn": float(torn), "learning_rate": learning_rate}
        self.falls_from, self.workers = round(steps * (1 - fall)), workers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build(ARCHITECTURE).train()
        self.average = AveragedModel(self.model)  # over the last stretch
        mask = float_mask(trained_grid(ARCHITECTURE), ARCHITECTURE["window"])
        self.register_buffer("mask", mask, persistent=False)
        self.tokenizer = WordTokenizer()
        self.to(device)

    # -- one step ---------------------------------------------------------------------------

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the matrices, which have weight decay, and the others."""
        parameters = list(self.model.parameters())
        others = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
        return [{"params": [p for p in parameters if p.ndim >= 2]}, others]

    def _images(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - MEAN[0]) / STD[0]

    def _kept(self) -> Tensor:
        """Draw the tokens that a step sees: the class token and some patches, in order."""
        cells = len(self.mask) - 1
        count = round(cells * _PATCHES_KEPT)
        patches = 1 + torch.randperm(cells)[:count].sort().values
        return torch.cat([torch.zeros(1, dtype=torch.long), patches]).to(self.mask.device)

    def _forgotten(self, ids: Tensor) -> Tensor:
        """Make three words in a hundred unknown; cut the padding off."""
        ids = ids[:, : int((ids > 0).sum(1).max())]  # the text tower is causal: padding is inert
        forgotten = (torch.rand(ids.shape) < 0.03).to(ids.device)
        words = (ids > UNKNOWN) & (ids < self.tokenizer.start)
        return ids.masked_fill(forgotten & words, UNKNOWN)

    def loss(self, images: Tensor, ids: Tensor, contents: Tensor) -> dict[str, Tensor]:
        """Compute the contrastive loss of a batch of `WebImages`."""
        device = images.device.type
        with torch.autocast(device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            # the fused kernels are slow on CPUs
            seen = train_image_features(self.model, self._images(images), self.mask, self._kept())
            read = text_features(self.model, self._forgotten(ids))
        seen, read = F.normalize(seen.float(), dim=-1), F.normalize(read.float(), dim=-1)
        scale = self.model.logit_scale.exp()
        return {"total": contrastive_loss(seen, read, scale, contents)}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Limit the scale; in the last stretch add the weights to their mean."""
        self.model.logit_scale.clamp_(0, _HIGHEST_SCALE)
        if step >= self.falls_from:
            self.average.update_parameters(self.model)

    # -- the run ----------------------------------------------------------------------------

    def run(self, *, shown: bool = False) -> Pretraining:
        """Train to the last step, from the checkpoint in the folder if there is one.

        Args:
            shown: whether to show a bar.

        Returns:
            Itself.

        Raises:
            Diverged: if the loss runs away; the last checkpoint stays.
            ValueError: if the checkpoint is damaged or of another run.
        """
        place = Checkpoint(self.folder / CHECKPOINT, self.run_of)
        recipe = {**self.recipe(), "shown": shown}
        self.losses_ = engine.fit(self, self.data(), recipe, what="paper-clip", checkpoint=place)
        tie_keys(self.model)
        return self

    def recipe(self) -> dict[str, Any]:
        """Return the numbers of the run, for `engine.fit`."""
        batch = self.run_of["batch"]
        return {
            **{name: self.run_of[name] for name in ("seed", "learning_rate", "fall")},
            **{"iterations": self.run_of["steps"], "batch_size": batch, "warmup": 150},
            **{"decay": "late", "optimiser": "adamw", "betas": (0.9, 0.98), "weight_decay": 0.1},
            **{"clip_norm": 1.0, "workers": self.workers, "sound": math.log(batch)},
        }

    def data(self) -> WebImages:
        """Return the images of a pass."""
        n = min(_PASS, self.run_of["steps"]) * self.run_of["batch"]
        size = ARCHITECTURE["vision_cfg"]["image_size"]
        return WebImages(n, self.run_of["seed"], size, torn=self.run_of["torn"])

    @property
    def result(self) -> nn.Module:
        """The model that is measured and written: the mean over the last stretch, once begun."""
        return self.average.module if self.average.n_averaged > 0 else self.model

    def export(self, path: str | Path, *, n: int = 800) -> Path:
        """Measure `result` and write its weights in half precision with a card.

        Args:
            path: of the weights; `load_clip("paper", weights=path)` reads them.
            n: held-out images drawn for each zero-shot test.

        Returns:
            The path of the weights.
        """
        model: Any = self.result.eval()
        tie_keys(model)
        weights = halved(model.state_dict())
        model.load_state_dict(weights)  # measure what is written
        device = self.mask.device
        with torch.no_grad():
            accuracy = zero_shot_accuracy(
                lambda x: train_image_features(
                    model, self._images(x.to(device) * 255), self.mask, None
                ),
                lambda texts: model.encode_text(self.tokenizer(texts).to(device)),
                n=n,
            )
        run = dict(self.run_of)
        data = {"split": "web", "seed": run["seed"], "cooccurrence": COOCCURRENCE["web"]}
        data |= {"torn": run.pop("torn"), "kinds": dict(zip(KINDS, WEB_KINDS, strict=True))}
        data |= {"pictures": run["steps"] * run["batch"], "supervision": "captions alone"}
        averaged = {"steps_averaged": int(self.average.n_averaged)}
        version = {"torch": torch.__version__.split("+")[0]}
        card = {
            "name": "tiny CLIP of the embedded world",
            "architecture": ARCHITECTURE,
            "words": list(self.tokenizer.words),
            "parameters": sum(p.numel() for p in model.parameters()),
            "data": data,
            "training": {**run, "patches_kept": _PATCHES_KEPT, **averaged, **version},
            "zero_shot": {"pictures_drawn": n, **accuracy},
        }
        return save_model(path, weights, card)
