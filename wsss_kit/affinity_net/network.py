"""AffinityNet: a trunk whose features say which neighbours belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.affinity import random_walk, transition_matrix
from wsss_kit.affinity_net.boundary import boundary_affinity
from wsss_kit.affinity_net.confident import labels_on_grid
from wsss_kit.affinity_net.neighbours import dense, feature_affinity, half_plane
from wsss_kit.affinity_net.pair_losses import balanced_pair_loss, pair_kinds
from wsss_kit.affinity_net.views import random_view, with_seeds
from wsss_kit.affinity_net.walk import windowed_walk
from wsss_kit.cam import upsample
from wsss_kit.checks import (
    check_count,
    check_images,
    check_not_negative,
    check_positive,
    check_word,
)
from wsss_kit.classes import IGNORE_INDEX, Sample
from wsss_kit.classifier import build_backbone
from wsss_kit.classifier.train import device_of
from wsss_kit.files import check_card, load_model, save_model
from wsss_kit.training import check_loss, polynomial_decay, seeded
from wsss_kit.training import progress as progress_bar

_CARD_VERSION = 1
_SAVED = ("backbone", "radius", "kind", "channels", "stride")
_MOST_DENSE = 1024
"""Cells up to which squaring the whole matrix is faster than walking step by step."""

KINDS = ("features", "boundary")
"""What two cells are compared by: PSA's likeness of features, or IRN's boundary between them."""


class AffinityNet(nn.Module):
    """Ahn and Kwak's AffinityNet (CVPR 2018) on any trunk, or the boundary variant of IRN.

    Features pass a 1x1 convolution and an ELU; two cells nearer than ``radius`` belong together as
    far as their features are alike, see `feature_affinity`. The variant makes one number a cell,
    the boundary, and looks for it between the two, see `boundary_affinity`.

    Args:
        backbone: a name or a module, see `build_backbone`; None for the embedded world's trunk with
            its weights.
        radius: neighbours are nearer than so many cells (PSA: 5; IRN: 10 in training, 5 in the
            walk).
        kind: one of ``KINDS``.
        channels: of the features that are compared (PSA: 448); the boundary has one.
        stride: of a named trunk; PSA's is 8.
        weights: of a named trunk.
        seed: of the convolution's first weights.
        device: of a named trunk; ``"auto"`` for CUDA where there is one.

    Raises:
        ValueError: for an unknown trunk, or a number that is no count.

    Example:
        >>> net = AffinityNet(device="cpu")
        >>> affinity = net(torch.rand(1, 3, 96, 96))
        >>> tuple(affinity.shape), affinity.diagonal(dim1=1, dim2=2).unique().tolist()
        ((1, 144, 144), [1.0])
    """

    def __init__(
        self,
        backbone: str | nn.Module | None = None,
        *,
        radius: int = 5,
        kind: str = "features",
        channels: int = 64,
        stride: int | None = None,
        weights: str | Path | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        check_count("seed", seed, least=0)
        check_word("kind", kind, KINDS)
        if stride is not None:
            check_count("stride", stride)
        if backbone is None:
            backbone, weights = "paper", weights or "web"
        self.backbone = backbone if isinstance(backbone, str) else type(backbone).__name__
        self.stride, self.offsets = stride, half_plane(radius)
        self.radius, self.kind, self.channels = radius, kind, channels
        self.trunk = build_backbone(backbone, stride=stride, weights=weights, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rows = channels if kind == "features" else 1
            self.project = nn.Conv2d(self.trunk.out_channels, rows, 1)
        if isinstance(backbone, str):
            cuda = torch.cuda.is_available()
            self.to(("cuda" if cuda else "cpu") if device == "auto" else device)

    def between(self, images: Tensor) -> Tensor:
        """What is between neighbours: (B, 3, H, W) RGB in [0, 1] -> (B, P, h, w)."""
        projected = self._projected(images)
        if self.kind == "boundary":
            return boundary_affinity(projected.sigmoid(), self.offsets)
        return feature_affinity(F.elu(projected), self.offsets)

    def _projected(self, images: Tensor) -> Tensor:
        """(B, channels, h, w), or one channel of the boundary, on the network's own device."""
        return self.project(self.trunk(images.to(device_of(self))))

    @torch.no_grad()
    def boundaries(self, images: Tensor) -> Tensor:
        """The boundary variant's own: (B, 3, H, W) -> (B, 1, h, w) in [0, 1].

        Raises:
            ValueError: if the features are compared instead.
        """
        if self.kind != "boundary":
            raise ValueError(
                f"kind is {self.kind!r}, expected 'boundary' for boundaries to be there"
            )
        check_images(images)
        return self._projected(images).sigmoid().to(images.device)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The whole affinity, ready for `transition_matrix`.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].

        Returns:
            (B, N, N) on the device of ``images``: symmetric, 1 on the diagonal, 0 for cells that
            are no neighbours. See `dense` for its size; `walk` does without it.
        """
        check_images(images)
        return dense(self.between(images), self.offsets).to(images.device)

    @torch.no_grad()
    def walk(
        self, scores: Tensor, images: Tensor, *, power: float = 8, squarings: int = 8
    ) -> Tensor:
        """Random walk of maps with the pictures' affinity, by whichever way is faster.

        Args:
            scores: (B, K, h, w) of any grid; resized to the affinity's.
            images: (B, 3, H, W) RGB in [0, 1].
            power: exponent on the affinity (PSA: 8).
            squarings: of the transition, so 2^squarings steps (PSA: 8).

        Returns:
            (B, K, h', w') on the affinity's grid and the device of ``scores``.

        Raises:
            ValueError: if shapes do not fit or a number is out of its range.
        """
        check_images(images)
        check_positive("power", power)
        check_count("squarings", squarings, least=0)
        between = self.between(images)
        grid = between.shape[2:]
        sized = upsample(scores.to(between.device), tuple(grid))
        if grid.numel() <= _MOST_DENSE:
            whole = dense(between, self.offsets)
            walked = random_walk(sized, transition_matrix(whole, power=power, squarings=squarings))
        else:
            options = {"power": power, "steps": 2**squarings}
            walked = windowed_walk(sized, between, self.offsets, **options)
        return walked.to(scores.device)

    def fit(
        self,
        samples: Sequence[Sample],
        seeds: Mapping[str, Tensor],
        *,
        epochs: int = 6,
        batch_size: int = 16,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        crop: int | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> AffinityNet:
        """Learn from confident labels: trunk and convolution together, AdamW, polynomial decay.

        Args:
            samples: pictures, of one size unless they are cropped.
            seeds: picture name to (H, W) int64 of `confident_labels`, neutral pixels 255. No ground
                truth.
            epochs: passes over the pictures.
            batch_size: pictures a step.
            learning_rate: at the start.
            weight_decay: of AdamW.
            crop: side of random square crops (PSA: 448); None takes whole pictures.
            seed: of the order of the pictures, of crops and of mirroring.
            progress: whether to show a bar.

        Returns:
            Itself, with ``losses_``, the mean of every epoch.

        Raises:
            ValueError: if a picture has no seed, the pictures differ in size, or a number is out of
                its range.
        """
        for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
            check_count(name, value)
        check_positive("learning_rate", learning_rate)
        check_not_negative("weight_decay", weight_decay)
        check_count("seed", seed, least=0)
        if crop is not None:
            check_count("crop", crop)
        images, labels = with_seeds(samples, seeds, cropped=crop is not None)
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=learning_rate, weight_decay=weight_decay
        )
        steps = -(-len(images) // batch_size)
        schedule = polynomial_decay(optimiser, steps * epochs)
        self.losses_: list[float] = []
        device, began = device_of(self), None
        self.train()
        for epoch in progress_bar(range(epochs), what="AffinityNet", shown=progress):
            losses = []
            random = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            with seeded(seed, epoch, device):
                for rows in torch.randperm(len(images), generator=random).split(batch_size):
                    views = [random_view(images[i], labels[i], crop, random) for i in rows.tolist()]
                    shown, asked = map(torch.stack, zip(*views, strict=True))
                    losses.append(self._step(shown, asked.to(device), optimiser))
                    schedule.step()
            began = losses[0] if began is None else began
            mean = sum(losses) / steps
            check_loss(mean, began, where=f"epoch {epoch + 1}", learning_rate=learning_rate)
            self.losses_.append(mean)
        self.eval()
        return self

    def save(self, path: str | Path) -> Path:
        """Write ``NAME.safetensors`` and ``NAME.json``; returns the first.

        Raises:
            RuntimeError: if it has learned nothing yet.
        """
        if not hasattr(self, "losses_"):
            raise RuntimeError("nothing to save yet; call fit(samples, seeds) first")
        saved = {name: getattr(self, name) for name in _SAVED}
        card = {"method": "AffinityNet", "version": _CARD_VERSION, **saved, "losses": self.losses_}
        return save_model(path, self.state_dict(), card)

    @classmethod
    def load(
        cls, path: str | Path, *, backbone: nn.Module | None = None, device: str = "auto"
    ) -> AffinityNet:
        """A trained AffinityNet from its files.

        Args:
            path: as given to `save`.
            backbone: the module, where the trunk was your own.
            device: of a named trunk.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the file is damaged, of another method or version, or of another trunk.
        """
        tensors, card = load_model(path)
        keys = (*_SAVED, "losses")
        check_card(card, path, method="AffinityNet", version=_CARD_VERSION, keys=keys)
        saved = {name: card[name] for name in _SAVED}
        named = saved.pop("backbone")
        if backbone is not None:
            named, saved["stride"] = backbone, None
        net = cls(named, device=device, **saved)
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(
                f"{path} has the weights of another trunk than {card['backbone']} ({error}); give "
                "the module it was saved with as backbone"
            ) from error
        net.losses_ = list(card["losses"])
        return net.eval()

    def _step(self, images: Tensor, labels: Tensor, optimiser: torch.optim.Optimizer) -> float:
        between = self.between(images)
        values = torch.where(labels == IGNORE_INDEX, 0, labels)
        cells = labels_on_grid(labels, tuple(between.shape[2:]), int(values.max()))
        loss = balanced_pair_loss(between, pair_kinds(cells, self.offsets))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()
