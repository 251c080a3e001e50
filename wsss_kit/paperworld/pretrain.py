"""Train the tiny CLIP on captions of the ``web`` split: ``python -m wsss_kit train paper-clip``.

The objective is CLIP's symmetric contrastive loss, with images of equal captions as common
positives. No mask, part or box is read. The learning rate is constant after a warm-up and falls
in a last stretch; a run that has not begun to fall can be prolonged by asking for more steps. Half
the patches of every image are dropped from the first step to the last: the text has to be read
from what is left, so every patch learns to answer for itself, and maps cover more of an object
than after a last stretch on whole images. The result is the mean of the weights over the last
stretch: from one hundred steps to the next, masks made with them move by points, and with their
mean they do not.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from wsss_kit.checkpoints import CHECKPOINT, load_checkpoint, restore_optimiser, save_checkpoint
from wsss_kit.checks import check_count, check_positive, check_probability
from wsss_kit.clip.texts import text_features
from wsss_kit.clip.vision import float_mask
from wsss_kit.files import save_model
from wsss_kit.paperworld.measures import zero_shot_accuracy
from wsss_kit.paperworld.scenes import KINDS
from wsss_kit.paperworld.tiny_clip import (
    ARCHITECTURE,
    MEAN,
    STD,
    build,
    tie_keys,
    train_image_features,
    trained_grid,
)
from wsss_kit.paperworld.words import UNKNOWN, WordTokenizer
from wsss_kit.paperworld.world import COOCCURRENCE, TORN, WEB_KINDS, page
from wsss_kit.training import check_loss

_OPENING = re.compile(r"^(a photo of|a picture of|an image of|a clean cutout of)\s+")
_HIGHEST_SCALE = math.log(60.0)
_PATCHES_KEPT = 0.5
"""Share of the patches that a step sees."""
_KIND = {"method": "tiny CLIP", "version": 1}


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """Compute CLIP's loss with every image of an equal caption as a positive.

    Args:
        images: (B, D) unit image embeddings.
        texts: (B, D) unit text embeddings.
        scale: factor on the cosine.
        captions: B captions; the opening phrase does not count when they are compared.

    Returns:
        Scalar, the mean of both directions' cross-entropies.
    """
    contents = [_OPENING.sub("", text) for text in captions]
    ids = torch.tensor([contents.index(text) for text in contents])
    targets = (ids[:, None] == ids).float().to(images.device)  # (B, B)
    targets = targets / targets.sum(1, keepdim=True)
    logits = scale * images @ texts.T
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


class WebBatches(Dataset):
    """Batch number -> (uint8 images, captions), drawn when asked for."""

    def __init__(
        self, batch: int, seed: int, size: int, first: int, last: int, *, torn: float
    ) -> None:
        self.batch, self.seed, self.size, self.torn = batch, seed, size, torn
        self.first, self.last = first, last

    def __len__(self) -> int:
        return max(0, self.last - self.first)

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        start = (self.first + step) * self.batch
        draw = partial(page.__wrapped__, "web", self.seed, torn=self.torn)
        pages = [draw(start + i, self.size, COOCCURRENCE["web"]) for i in range(self.batch)]
        images = np.stack([p.drawing.image for p in pages])
        return torch.from_numpy(images).permute(0, 3, 1, 2), [p.caption for p in pages]


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in half precision, those of integers as they are."""
    return {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}


class Pretraining:
    """A resumable training run in a folder.

    Args:
        folder: where checkpoints, the log and the finished weights go.
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
        check_count("steps", steps)
        check_count("batch", batch)
        check_count("seed", seed, least=0)
        check_count("workers", workers, least=0)
        check_probability("fall", fall)
        check_probability("torn", torn)
        check_positive("learning_rate", learning_rate)
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.steps, self.batch, self.seed, self.workers = steps, batch, seed, workers
        self.learning_rate, self.fall, self.torn = learning_rate, fall, float(torn)
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build(ARCHITECTURE).to(self.device).train()
        self.average = AveragedModel(self.model)  # over the last stretch
        self._both = nn.ModuleDict({"model": self.model, "average": self.average})
        parameters = list(self.model.parameters())
        decayed = {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1}
        others = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
        options = {"lr": learning_rate, "betas": (0.9, 0.98), "eps": 1e-6}
        self.optimiser = torch.optim.AdamW([decayed, others], **options)
        self.step, self.seconds = 0, 0.0
        self.tokenizer = WordTokenizer()
        self.mask = float_mask(trained_grid(ARCHITECTURE), ARCHITECTURE["window"]).to(self.device)

    # -- schedule ---------------------------------------------------------------------------

    @property
    def falls_from(self) -> int:
        """The first step at which the learning rate falls."""
        return round(self.steps * (1 - self.fall))

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        warm = min(1.0, (step + 1) / 150)
        left = (self.steps - step) / max(1, self.steps - self.falls_from)
        return self.learning_rate * warm * (math.sin(math.pi / 2 * min(1.0, left)) ** 2 + 1e-3)

    # -- one step ---------------------------------------------------------------------------

    def _images(self, images: Tensor) -> Tensor:
        return (images.to(self.device).float() / 255 - MEAN[0]) / STD[0]

    def _kept(self, random: torch.Generator) -> Tensor:
        """Draw the tokens that a step sees: the class token and some patches, in order."""
        cells = len(self.mask) - 1
        count = round(cells * _PATCHES_KEPT)
        patches = 1 + torch.randperm(cells, generator=random)[:count].sort().values
        return torch.cat([torch.zeros(1, dtype=torch.long), patches]).to(self.device)

    def _texts(self, captions: list[str], random: torch.Generator) -> Tensor:
        """Return ids of the captions, three words in a hundred made unknown."""
        ids = self.tokenizer(captions)
        ids = ids[:, : int((ids > 0).sum(1).max())]  # the text tower is causal: padding is inert
        forgotten = torch.rand(ids.shape, generator=random) < 0.03
        words = (ids > UNKNOWN) & (ids < self.tokenizer.start)
        return ids.masked_fill(forgotten & words, UNKNOWN).to(self.device)

    def _train_step(self, images: Tensor, captions: list[str]) -> float:
        random = torch.Generator().manual_seed(self.seed * 10_000_019 + self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.step)
        kept, ids = self._kept(random), self._texts(captions, random)
        autocast = torch.autocast(self.device.type, dtype=torch.bfloat16)
        with autocast, sdpa_kernel(SDPBackend.MATH):  # the fused kernels are slow on CPUs
            seen = train_image_features(self.model, self._images(images), self.mask, kept)
            read = text_features(self.model, ids)
        seen, read = F.normalize(seen.float(), dim=-1), F.normalize(read.float(), dim=-1)
        loss = contrastive_loss(seen, read, self.model.logit_scale.exp(), captions)
        self.optimiser.zero_grad()
        with sdpa_kernel(SDPBackend.MATH):
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, _HIGHEST_SCALE)
        return loss.item()

    # -- the run ----------------------------------------------------------------------------

    def run(
        self, *, save_every: int = 500, progress: Callable[[Iterable], Iterable] = iter
    ) -> Pretraining:
        """Train to the last step, from the checkpoint in the folder if there is one.

        Args:
            save_every: steps between checkpoints.
            progress: wraps the iterator of batches, for example in a progress bar.

        Returns:
            Itself.

        Raises:
            Diverged: if the loss runs away; the last checkpoint stays.
        """
        self.resume()
        size, ahead = ARCHITECTURE["vision_cfg"]["image_size"], 8 if self.workers else None
        web = WebBatches(self.batch, self.seed, size, self.step, self.steps, torn=self.torn)
        options = {"num_workers": self.workers, "prefetch_factor": ahead}
        batches = DataLoader(web, batch_size=None, **options)
        losses: list[float] = []
        started = time.monotonic() - self.seconds
        for images, captions in progress(batches):
            if self.step == self.falls_from:
                self.save("steady")  # from here a longer run could go on
            losses.append(self._train_step(images, captions))
            self.step += 1
            if self.step > self.falls_from:
                self.average.update_parameters(self.model)
            self.seconds = time.monotonic() - started
            if self.step % 100 == 0:
                loss = float(np.mean(losses[-100:]))
                entry = {"step": self.step, "seconds": round(self.seconds), "loss": loss}
                with (self.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(entry) + "\n")
                chance, where = math.log(self.batch), f"step {self.step}"
                check_loss(loss, chance, where=where, learning_rate=self.learning_rate)
            if self.step % save_every == 0 or self.step == self.steps:
                self.save(CHECKPOINT)
        tie_keys(self.model)
        return self

    @property
    def result(self) -> nn.Module:
        """The model that is measured and written: the mean over the last stretch, once begun."""
        return self.average.module if self.average.n_averaged > 0 else self.model

    def export(self, path: str | Path, *, n: int = 800) -> Path:
        """Measure `result` and write its weights in half precision with the card beside them.

        Args:
            path: of the weights; `load_clip("paper", weights=path)` reads them.
            n: held-out images drawn for each zero-shot test.

        Returns:
            The path of the weights.
        """
        model = self.result.eval()
        tie_keys(model)
        weights = halved(model.state_dict())
        model.load_state_dict(weights)  # measure what is written
        with torch.no_grad():
            accuracy = zero_shot_accuracy(
                lambda x: train_image_features(model, self._images(x * 255), self.mask, None),
                lambda texts: model.encode_text(self.tokenizer(texts).to(self.device)),
                n=n,
            )
        data = {"split": "web", "seed": self.seed, "cooccurrence": COOCCURRENCE["web"]}
        data |= {"torn": self.torn, "kinds": dict(zip(KINDS, WEB_KINDS, strict=True))}
        data |= {"pictures": self.step * self.batch, "supervision": "captions alone"}
        training = {"steps": self.step, "batch": self.batch, "seed": self.seed}
        training |= {"learning_rate": self.learning_rate, "fall": self.fall}
        training["patches_kept"] = _PATCHES_KEPT
        training["steps_averaged"] = int(self.average.n_averaged)
        training |= {"seconds": round(self.seconds), "torch": torch.__version__.split("+")[0]}
        card = {
            "name": "tiny CLIP of the embedded world",
            "architecture": ARCHITECTURE,
            "words": list(self.tokenizer.words),
            "parameters": sum(p.numel() for p in model.parameters()),
            "data": data,
            "training": training,
            "zero_shot": {"pictures_drawn": n, **accuracy},
        }
        return save_model(path, weights, card)

    # -- checkpoints ------------------------------------------------------------------------

    @property
    def _identity(self) -> dict[str, float]:
        """What has to agree for a checkpoint to be one of this run."""
        return {key: getattr(self, key) for key in ("seed", "batch", "torn", "learning_rate")}

    def save(self, name: str) -> None:
        """Write weights, moments and step; a crash while writing leaves the old files whole."""
        card = {**_KIND, "classes": [], "seconds": self.seconds, "falls_from": self.falls_from}
        path, tensors = self.folder / name, self._both.state_dict()
        save_checkpoint(path, tensors, self.optimiser, card, epoch=self.step, run=self._identity)

    def resume(self, name: str = CHECKPOINT) -> bool:
        """Go on from the folder's checkpoint; return False if there is none.

        Raises:
            ValueError: if the checkpoint is damaged, was made with another seed, batch size, rate
                or share of torn objects, or is beyond the step from which a longer run could go on.
        """
        path, keys = self.folder / name, ("seconds", "falls_from")
        requested = {"classes": (), "run": self._identity, "epochs": self.steps}
        stored = load_checkpoint(path, **_KIND, keys=keys, **requested)
        if stored is None:
            return False
        tensors, card = stored
        if card["epoch"] > card["falls_from"] != self.falls_from:
            problem = f"{path} is at step {card['epoch']}, and its learning rate fell from"
            hint = "to prolong the run, start from steady.safetensors"
            raise ValueError(f"{problem} step {card['falls_from']} on; {hint}")
        self._both.load_state_dict({name: tensors[name] for name in self._both.state_dict()})
        restore_optimiser(self.optimiser, tensors)
        self.step, self.seconds = card["epoch"], card["seconds"]
        return True
