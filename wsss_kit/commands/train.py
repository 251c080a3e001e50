"""Train what the package ships, again from its seed: tiny CLIP, paper backbone, CLIMS and SC-CAM.

Weakly supervised methods start from a network that has seen many images before (ImageNet). The
embedded world's stand-in, the paper backbone, imitates the tiny CLIP on the ``web`` split: in every
cell it learns the embedding that CLIP has of that patch. No label, caption or mask enters. From
random weights a classifier trained where objects stand at home learns the homes and hardly looks at
the objects.

The tiny CLIP and the paper backbone stand for two things, so they have two teachers. The tiny CLIP
stands for a model that read the web, where heads are often hidden: a share of its objects is torn.
The paper backbone stands for ImageNet, which was not chosen so: its teacher is a tiny CLIP that
never saw a torn object. In CLIP-ES's place the backbone's teacher finds heads; in the backbone's
place the torn tiny CLIP would give plain CAM the bodies that SC-CAM is there to find. Both cards
name their data.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from wsss_kit import engine
from wsss_kit.checks import check_count, check_seed, chosen_device
from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.clip.vision import float_mask
from wsss_kit.commands import run_folder
from wsss_kit.evaluation import CONSTANTS, CRF_RULES, POWERS, best_rule, sweep_background
from wsss_kit.files import load_model, save_model
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM, agreement
from wsss_kit.paperworld import COOCCURRENCE, TORN, PaperWorld, subtype_labels
from wsss_kit.paperworld.pretrain import Pretraining, WebImages, halved
from wsss_kit.paperworld.tiny_clip import (
    MEAN,
    STD,
    PaperBackbone,
    load_tiny_clip,
    train_patch_features,
    trained_grid,
)
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_maps

BASE = {"epochs": 6, "learning_rate": 0.02}
"""Of the plain CAM that CLIMS starts from: backbone and head, end to end."""
N_SUBTYPES = 3
"""Sub-categories of each class that SC-CAM looks for: as many as there are. If the
number is not known, it has to be chosen; notebook 03 shows the effect of another number."""


def train_paper_clip(
    out: str | Path = "data/runs/paper",
    *,
    steps: int = 8000,
    fall: float = 0.2,
    seed: int = 0,
    workers: int = 1,
    device: str = "cpu",
    torn: float = TORN["web"],
) -> Path:
    """Train the tiny CLIP, resumably, and choose what its affinity is made of and walks.

    Equally trained ones differ by points. The one in the package is the best of several on ``val``,
    by the mean of what their cards say (``attention``, ``mean_iou``).

    Args:
        out: folder of checkpoints, log, weights and card.
        steps: of 128 images.
        fall: last share of the steps, over which the learning rate falls.
        seed: of weights and world.
        workers: processes that draw images.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        torn: how often an object of the images has lost its signature part; 0 for a teacher of
            the paper backbone.

    Returns:
        The path of the weights.
    """
    options = {"steps": steps, "fall": fall, "seed": seed, "workers": workers, "torn": torn}
    with run_folder(out) as folder:
        run = Pretraining(folder, **options, device=str(chosen_device(device)))
        path = run.run(shown=True).export(folder / "tiny_clip")
        return write_affinity(path)


_LEARNING_RATE = 3e-3
"""The highest of the training; a cosine from there."""


def train_paper_backbone(
    out: str | Path = "data/runs/paper",
    *,
    teacher: str | Path | None = None,
    steps: int = 800,
    batch: int = 64,
    seed: int = 0,
    workers: int = 1,
) -> Path:
    """Train the paper backbone: it imitates the tiny CLIP's patch embeddings.

    Args:
        out: folder of the weights and the card.
        teacher: weights of a tiny CLIP; None for the package's. The backbone in the package had one
            that never saw a torn object, as ImageNet's images were not chosen to hide heads.
        steps: of AdamW; every image is seen once.
        batch: images a step.
        seed: of the weights and of the images' world.
        workers: processes that draw images.

    Returns:
        The path of the weights.

    Raises:
        ValueError: if a number is out of range.
        FileNotFoundError: if the teacher is missing.
        Diverged: if the loss runs away.
    """
    check_count("steps", steps)
    check_count("batch", batch)
    check_seed(seed)
    check_count("workers", workers, least=0)
    with run_folder(out) as folder:
        patches_of, teacher_card = _teacher(teacher)
        architecture = teacher_card["architecture"]
        student = _Student(patches_of, architecture["embed_dim"], seed)
        world, size = 1000 + seed, architecture["vision_cfg"]["image_size"]
        recipe = {"iterations": steps, "batch_size": batch, "seed": seed, "optimiser": "adamw"}
        recipe |= {"learning_rate": _LEARNING_RATE, "weight_decay": 0.05, "decay": "cosine"}
        recipe |= {"warmup": max(1, round(0.06 * steps)), "workers": workers, "shown": True}
        web = WebImages(min(50, steps) * batch, world, size, torn=0.0)
        losses = engine.fit(student, web, {**recipe, "sound": 2.0}, what="paper backbone")
        seen = {"sha256": teacher_card["sha256"], "torn": teacher_card["data"].get("torn", 0.0)}
        data = {"split": "web", "seed": world, "torn": 0.0, "cooccurrence": COOCCURRENCE["web"]}
        card: dict[str, Any] = {
            "name": "paper backbone",
            "objective": "the tiny CLIP's embedding of every patch and of the whole image",
            "teacher": {**seen, **teacher_card["training"]},
            **{"data": data, "pictures": steps * batch, "steps": steps, "batch": batch},
            **{"seed": seed, "learning_rate": _LEARNING_RATE, "last_loss": losses[-1]["total"]},
        }
        return save_model(folder / "paper_trunk", halved(student.backbone.state_dict()), card)


class _Student(nn.Module):
    """The paper backbone and a projection to the teacher's embeddings."""

    def __init__(self, patches_of: Callable[[Tensor], Tensor], dimensions: int, seed: int) -> None:
        super().__init__()
        self.patches_of = patches_of
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = PaperBackbone(stride=8).to(memory_format=torch.channels_last)
            self.head = nn.Conv2d(self.backbone.out_channels, dimensions, 1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}]

    def loss(self, drawn: Tensor, *_: Tensor) -> dict[str, Tensor]:
        """Compute one minus the cosine of every cell, and of the means over the cells."""
        images = drawn.float().div(255).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            target = self.patches_of(images)  # (B, E, h, w)
            output = self.head(self.backbone(images))
        output, target = output.float(), target.float()
        pooled = output.mean((2, 3)), target.mean((2, 3))
        cells = 1 - F.cosine_similarity(output, target, dim=1).mean()
        return {"total": cells + 1 - F.cosine_similarity(*pooled, dim=1).mean()}


def _teacher(path: str | Path | None) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """Load images (B, 3, 96, 96) in [0, 1] -> patch embeddings (B, E, h, w), and the card."""
    model, card = load_tiny_clip(path)
    grid = trained_grid(card["architecture"])
    mask = float_mask(grid, card["architecture"]["window"])

    @torch.no_grad()
    def patches_of(images: Tensor) -> Tensor:
        patches = train_patch_features(model, (images - MEAN[0]) / STD[0], mask)  # (B, N, E)
        return patches.transpose(1, 2).unflatten(2, grid)

    return patches_of, card


def score_affinity(
    clip: FrozenCLIP, *, n_images: int = 100, shown: bool = True
) -> dict[tuple[int, int], tuple[float, float]]:
    """Score CLIP-ES on PaperWorld's ``val``, by its affinity and how far it walks.

    Args:
        clip: a tiny CLIP.
        n_images: images of ``val``.
        shown: whether to show progress bars.

    Returns:
        (squarings of the transition, last layers that attention is averaged over) -> mIoU in
        [0, 1] without and with the dense CRF, each under its best background rule.
    """
    val, scores = PaperWorld(n_images, split="val"), {}
    # a walk of one step, and the published one of two
    for squarings, layers in product((0, 1), range(1, 1 + len(clip.blocks))):
        method = CLIPES(clip, prompts=Prompts.paper(), n_layers=layers, squarings=squarings).fit()
        bar = {"shown": shown, "what": f"{2**squarings} steps, the last {layers} layers"}
        both = ((CONSTANTS + POWERS, False), (CRF_RULES, True))
        swept = (
            sweep_background(Pipeline(method, crf=crf), val, val.masks, rules=rules, **bar)
            for rules, crf in both
        )
        scores[squarings, layers] = tuple(max(each.values()) for each in swept)
    return scores


def write_affinity(path: str | Path, *, n_images: int = 100, shown: bool = True) -> Path:
    """Measure `score_affinity` for a saved tiny CLIP and put the best into its card."""
    clip: Any = load_clip("paper", weights=path, device="cpu")
    scores = score_affinity(clip, n_images=n_images, shown=shown)
    squarings, layers = max(scores, key=lambda key: sum(scores[key]))  # both uses of maps
    rows = {
        f"squarings {squared}, layers {n}": {"maps": round(maps, 3), "crf": round(crf, 3)}
        for (squared, n), (maps, crf) in scores.items()
    }
    tensors, card = load_model(path)
    chosen_on = (
        f"PaperWorld seed 0, val, {n_images} images: CLIP-ES (reference), mean of the mIoU "
        "without and with the dense CRF, the best background rule of each"
    )
    found = {"layers": layers, "squarings": squarings, "mean_iou": rows, "chosen_on": chosen_on}
    card["attention"] = found
    return save_model(path, tensors, card)


def train_paper_clims(
    out: str | Path = "data/runs/paper", *, seed: int = 0, n_train: int = 1000, n_val: int = 100
) -> Path:
    """Train a CAM and, from it, CLIMS on the embedded world; resumes where it was stopped.

    Args:
        out: folder of checkpoints, weights and card.
        seed: of weights and order.
        n_train: images that both learn from.
        n_val: images of ``val`` that both are scored on, for the card.

    Returns:
        The path of the weights, in half precision; ``CLIMS.load`` reads them.

    Raises:
        ValueError: if a number is out of range, or the folder cannot be written to or is in use.
    """
    train, val = PaperWorld(n_train, split="train"), PaperWorld(n_val, split="val")
    with run_folder(out) as folder:
        cam = _new_cam().fit(train, seed=seed, checkpoint=folder / "cam", **BASE)
        clip, prompts = load_clip("paper", device="cpu"), Prompts.paper(method="clims")
        clims = CLIMS(clip, cam, prompts=prompts, scales=(1.0,), preset="clean")
        clims.fit(train, seed=seed, checkpoint=folder / "clims-training")
        methods = {"CAM": cam, "CLIMS": clims}
        return _ship(folder / "clims", methods, train, val, seed=seed, base=BASE)


def train_paper_sc_cam(
    out: str | Path = "data/runs/paper", *, seed: int = 0, n_train: int = 1000, n_val: int = 100
) -> Path:
    """Train a CAM's head and, from it, SC-CAM on the embedded world; resumes where it was stopped.

    The classifier that gives the first features is a head on the backbone as it comes with the
    package: a backbone that has learned to tell classes apart has begun to forget what parts them.

    Args:
        out: folder of checkpoints, weights and card.
        seed: of weights, order and clusters.
        n_train: images that both learn from.
        n_val: images of ``val`` that both are scored on, for the card.

    Returns:
        The path of the weights, in half precision; ``SCCAM.load`` reads them.

    Raises:
        ValueError: if a number is out of range, or the folder cannot be written to or is in use.
    """
    train, val = PaperWorld(n_train, split="train"), PaperWorld(n_val, split="val")
    with run_folder(out) as folder:
        cam = _new_cam().fit(train, train_backbone=False, seed=seed)
        sc_cam = SCCAM(cam, n_subcategories=N_SUBTYPES, scales=(1.0,), preset="clean")
        sc_cam.fit(train, seed=seed, checkpoint=folder / "sc-cam-training")
        truth, C = subtype_labels(train), len(train.classes)
        nmi = [agreement(each, truth, n_classes=C).mean_nmi for each in sc_cam.rounds_]
        card = {"seed": seed, "base": "a head on the backbone as it comes with the package"}
        card |= {"nmi_with_true_subtypes": [round(each, 3) for each in nmi]}
        return _ship(folder / "sc-cam", {"CAM": cam, "SC-CAM": sc_cam}, train, val, **card)


def _new_cam() -> CAM:
    return CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")


def _ship(
    path: Path, methods: Mapping[str, CAMMethod], train: PaperWorld, val: PaperWorld, **facts: Any
) -> Path:
    """Write the last of the methods in half precision, and on its card the scores of all.

    Args:
        path: of the weights.
        methods: by their names; the last one is scored as it was written.
        train: the images it was trained on.
        val: the images to score on.
        **facts: more for the card.
    """
    *_, name = methods
    tensors, card = load_model(methods[name].save(path))
    path = save_model(path, halved(tensors), card)
    methods = {**methods, name: type(methods[name]).load(path, device="cpu")}
    on = f"PaperWorld seed 0, val, {len(val)} images, no refinement"
    measured: dict[str, Any] = {"on": f"{on}, best constant background of each"}
    for each, method in methods.items():
        swept = sweep_background(partial(cam_maps, method=method), val, val.masks, rules=CONSTANTS)
        best = best_rule(swept)
        measured[each] = {"background": str(best), "mean_iou": round(swept[best], 3)}
    on = f"PaperWorld seed 0, train, {len(train)} images with image-level labels"
    card |= {"trained_on": on, **facts, "measured": measured}
    return save_model(path, halved(tensors), card)
