"""A trained segmenter: predicts masks without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.cam import upsample
from wsss_kit.checkpoints import Resumable
from wsss_kit.checks import check_images, check_labels, check_scales, check_word, chosen_device
from wsss_kit.classes import Sample
from wsss_kit.crf import crf_of_present, dense_crf
from wsss_kit.segmentation.networks import build_network
from wsss_kit.training import device_of
from wsss_kit.training import progress as progress_bar


class Segmenter(Resumable, nn.Module):
    """A network with the names of its classes; calling it gives logits at the image's size.

    Args:
        net: images to logits (B, K, h, w), see `build_network`.
        classes: C = K - 1 names.
        network: how the network is called, for the card.
        backbone: how its backbone is called, None for its usual one.
        taught_by: what masks it learned from, in words, for the card.
    """

    METHOD = "segmenter"
    SAVED = ("network", "backbone", "classes", "taught_by")

    def __init__(
        self,
        net: nn.Module,
        classes: Sequence[str],
        *,
        network: str,
        backbone: str | None = None,
        taught_by: str = "not stated",
    ) -> None:
        super().__init__()
        self.net, self.classes = net, tuple(classes)
        self.network, self.backbone, self.taught_by = network, backbone, taught_by
        self.losses_: list[float] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits: (B, 3, H, W) RGB in [0, 1] -> (B, K, H, W), background first."""
        return upsample(self.net(images), images.shape[-2:])

    @torch.no_grad()
    def probs(
        self,
        images: Tensor,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fuse: str = "mean",
    ) -> Tensor:
        """Compute probabilities over several sizes of an image and its mirror image.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            scales: of the images.
            flip: whether mirror images are seen too.
            fuse: ``"mean"`` of the probabilities, or the softmax of the ``"max"`` of the logits, as
                DeepLab's code has it for the sizes it was trained with (1, 0.75, 0.5).

        Returns:
            (B, K, H, W), sums to 1, on the device of ``images``.

        Raises:
            ValueError: if a number is out of its range.
        """
        check_images(images)
        check_scales(scales)
        check_word("fuse", fuse, ("mean", "max"))
        size, of_views = images.shape[-2:], []
        for scale in scales:
            scaled = [max(1, round(side * scale)) for side in size]
            view = images.to(device_of(self))
            if scaled != list(size):
                view = F.interpolate(view, size=scaled, mode="bilinear", antialias=scale < 1)
            of_views.append(upsample(self.net(view), size))
            if flip:
                of_views.append(upsample(self.net(view.flip(-1)).flip(-1), size))
        logits = torch.stack(of_views)
        fused = logits.softmax(2).mean(0) if fuse == "mean" else logits.amax(0).softmax(1)
        return fused.to(images.device)

    def predict(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fuse: str = "mean",
        crf: Mapping[str, Any] | bool = False,
    ) -> Tensor:
        """Predict masks, with or without image-level labels.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
            labels: (B, C) if they are known: absent classes are switched off. A published number of
                a segmenter knows no labels.
            scales: see `probs`.
            flip: see `probs`.
            fuse: see `probs`.
            crf: whether a dense CRF follows; parameters of `dense_crf`, or True for the default,
                which is DeepLab's.

        Returns:
            (B, H, W) int64.

        Raises:
            ValueError: if shapes do not fit or a number is out of its range.
        """
        scores = self.probs(images, scales=scales, flip=flip, fuse=fuse)
        if labels is not None:
            check_labels(labels)
            if labels.shape != (len(images), len(self.classes)):
                raise ValueError(
                    f"labels has shape {tuple(labels.shape)}, expected "
                    f"({len(images)}, {len(self.classes)}): one column a class"
                )
            known = torch.cat([labels.new_ones(len(labels), 1), labels], 1) > 0
            scores = scores * known[:, :, None, None].to(scores.device)
        if crf is not False:
            parameters = {} if crf is True else crf
            # with labels, absent classes take no part
            refine = dense_crf if labels is None else partial(crf_of_present, labels=labels)
            scores = refine(scores, images, **parameters)
        return scores.argmax(1)

    def predict_all(
        self, samples: Sequence[Sample], *, shown: bool = True, **options: Any
    ) -> dict[str, Tensor]:
        """Predict masks of a whole data set, without its labels: name -> (H, W) int64.

        Args:
            samples: images.
            shown: whether to show a bar.
            **options: of `predict`.
        """
        return {
            sample.name: self.predict(sample.image[None], **options)[0]
            for sample in progress_bar(samples, what="masks", shown=shown, total=len(samples))
        }

    @classmethod
    def load(
        cls, path: str | Path, *, net: nn.Module | None = None, device: str = "auto"
    ) -> Segmenter:
        """Load a trained segmenter from its files.

        Args:
            path: as given to `save`.
            net: the network, where it or its backbone was your own.
            device: where to put it; ``"auto"`` for CUDA where there is one.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file is damaged, of another method or version, or of another network.
        """
        tensors, card = cls._read(path)
        saved = {name: card[name] for name in cls.SAVED}
        if net is None:
            n_values = 1 + len(saved["classes"])
            net = build_network(saved["network"], n_values, backbone=saved["backbone"])
        segmenter = cls(net, **saved)
        segmenter._take(tensors, card, path)
        return segmenter.to(chosen_device(device)).eval()
