"""A whole run on the embedded world: maps, masks, a segmenter that learns from them, scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from wsss_kit.clip import load_clip
from wsss_kit.commands.generate import made_masks
from wsss_kit.commands.paper_methods import Ready, ready, ready_clip_es
from wsss_kit.commands.train_methods import train_paper_clims, train_paper_sc_cam
from wsss_kit.evaluation import BackgroundRule, Published
from wsss_kit.masks import scores_to_masks
from wsss_kit.methods.base import CAMMethod
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.notebook_data import OpenData
from wsss_kit.paperworld import PaperWorld
from wsss_kit.plot.run_page import Run
from wsss_kit.segmentation import train_segmenter

N_CAM, N_TRAIN, N_VAL, N_TEST, EPOCHS = 400, 800, 100, 200, 10


def run_paper_chain(
    row: Published,
    folder: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    iterations: int | None = None,
    device: str = "auto",
) -> Run:
    """Maps, masks and a segmenter of one method on the embedded world, scored on ``test``.

    Args:
        row: names the method; ``"ground truth"`` teaches the segmenter with true masks: the
            ceiling, and the one place where training sees them.
        folder: of masks and weights.
        seed: of the training pictures and of everything that is trained.
        limit: at most so many pictures of each split.
        iterations: steps of the segmenter instead of ten passes.
        device: where the segmenter learns.
    """
    data = _world(seed, limit)
    reports, masks, target = {}, {}, data.test_masks
    if row.method == "ground truth":
        taught = data.train.masks
    else:
        if row.method == "CLIP-ES":
            teacher = ready_clip_es()
        else:
            teacher = ready(_fitted(row.method, folder, seed, limit))
        for step, refine in (("maps", None), ("masks", teacher.crf)):
            chosen, reports[step] = data.score(
                teacher.maps_of,
                refine=refine,
                refinement=teacher.refinement(crf=refine is not None),
                preset=teacher.fitted.preset,
                what=step,
            )
            masks[step] = chosen.masks
        made_by = {"row": row.name, "rule": str(chosen.rule), "seed": seed, "limit": limit}
        taught = made_masks(
            data.train,
            partial(_masks, teacher=teacher, rule=chosen.rule),
            folder / "pseudo-masks",
            made_by=made_by,
            what="masks of train",
        )
    length = {"epochs": EPOCHS} if iterations is None else {"iterations": iterations}
    net = train_segmenter(
        data.train,
        taught,
        taught_by=row.method,
        seed=seed,
        device=device,
        checkpoint=folder / "segmenter-training",
        **length,
    )
    net.save(folder / "segmenter")
    for step, crf in (("segmenter", False), ("segmenter, CRF", True)):
        masks[step] = net.predict_all(data.test, flip=True, crf=crf)
        refinement = "dense CRF" if crf else "none"
        stated = {"background": "learned", "preset": "small segmenter"}
        reports[step] = data.evaluate(masks[step], refinement=refinement, **stated)
    return Run(reports, masks, data.test, target, net.losses_, _notes(row, data))


def _world(seed: int, limit: int | None) -> OpenData:
    """The three splits; only the training pictures change with the seed."""
    most = limit or max(N_TRAIN, N_TEST)
    sizes = (min(most, n) for n in (N_TRAIN, N_VAL, N_TEST))
    train, val, test = (
        PaperWorld(n, split=split, seed=seed if split == "train" else 0)
        for n, split in zip(sizes, ("train", "val", "test"), strict=True)
    )
    return OpenData("paper", PaperWorld.classes, train, val, test, val.masks, test.masks)


def _fitted(method: str, folder: Path, seed: int, limit: int | None) -> CAMMethod:
    """Weights of the package for seed 0, and trained ones for another."""
    if method == "CAM":
        learned = PaperWorld(min(N_CAM, limit or N_CAM), split="train")
        cam = CAM("paper", weights="web", preset="clean", scales=(1.0,), device="cpu")
        return cam.fit(learned, train_backbone=False, seed=seed)
    kind, train = {
        "SC-CAM": (SCCAM, train_paper_sc_cam),
        "CLIMS": (CLIMS, train_paper_clims),
    }[method]
    clip = {"clip": load_clip("paper", device="cpu")} if kind is CLIMS else {}
    if seed == 0:
        return kind.load("paper", device="cpu", **clip)
    return kind.load(train(folder / "method", seed=seed), device="cpu", **clip)


def _masks(images: Tensor, labels: Tensor, *, teacher: Ready, rule: BackgroundRule) -> Tensor:
    scores = teacher.crf(rule.scores(teacher.maps_of(images, labels)), images, labels)
    return scores_to_masks(scores, labels)


def _notes(row: Published, data: OpenData) -> list[str]:
    if row.method == "ground truth":
        return [
            f"The ceiling: the segmenter learned from the true masks of {len(data.train)} pictures."
        ]
    return [
        f"Maps and masks know the labels of the pictures of test; the segmenter, which learned "
        f"from {len(data.train)} pictures of train and their masks, does not.",
        f"Ground truth entered on val ({len(data.val)} pictures), to choose two background rules, "
        "and on test, to score.",
    ]
