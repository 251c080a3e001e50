"""Two pages on real images: plain CAM scored (``baseline``), CLIP-ES on a folder of one's own.

``baseline`` keeps the backbone as it is and trains a linear head on image-level labels, once a
seed. ``demo --pictures FOLDER`` trains nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss_kit.backbones import build_backbone
from wsss_kit.checks import check_count, check_given, check_seed, check_word
from wsss_kit.clip import load_clip
from wsss_kit.commands import backbone_named, run_folder
from wsss_kit.data import Dataset, LazySamples, open_dataset
from wsss_kit.data.datasets import default_root
from wsss_kit.data.folder import open_images
from wsss_kit.evaluation import BackgroundRule, Protocol, Report, evaluate
from wsss_kit.files import save_model
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.pipeline import Pipeline
from wsss_kit.plot import show_cams, show_masks, show_samples
from wsss_kit.plot.reports import table_text, write_report
from wsss_kit.processes import progress
from wsss_kit.prompts import Prompts

SCALES = (0.5, 1.0, 1.5)


def train_heads(backbone: nn.Module, samples: Dataset, seeds: Sequence[int]) -> list[CAM]:
    """Train one CAM a seed on the same frozen backbone; the features are computed once."""
    cams = [CAM(backbone, scales=SCALES, preset="clean") for _ in seeds]
    options = {"train_backbone": False, "pooled": cams[0].pool(samples)}
    return [cam.fit(samples, **options, seed=n) for cam, n in zip(cams, seeds, strict=True)]


def predict_all(
    cams: Sequence[CAM], samples: Dataset, rule: BackgroundRule, crf: bool = False
) -> list[dict[str, Tensor]]:
    """Compute masks of every CAM in one pass: their backbone runs once for all heads.

    Args:
        cams: S of them, fitted on one backbone.
        samples: the images.
        rule: puts a background before the maps.
        crf: whether scores go through the dense CRF.

    Returns:
        S mappings: name -> (H, W) int64.
    """
    every = CAM(cams[0].backbone, scales=SCALES, preset="clean")  # a CAM of S * C classes
    every.build(cams[0].classes * len(cams), 0)
    every.head_ = nn.Parameter(torch.cat([cam.head_ for cam in cams]))  # (S * C, D)
    pipeline = Pipeline(every, crf=crf)
    predicted: list[dict[str, Tensor]] = [{} for _ in cams]
    for sample in progress(samples, what="masks on val"):
        images, labels = sample.image[None], sample.labels[None]
        maps = pipeline.maps(images, labels.repeat(1, len(cams)))  # (1, S * C, H, W)
        for masks, head_maps in zip(predicted, maps.chunk(len(cams), 1), strict=True):
            masks[sample.name] = pipeline.masks_of(rule.scores(head_maps), images, labels)[0]
    return predicted


def run_baseline(
    data: str = "voc",
    root: str | Path | None = None,
    *,
    backbone: str | nn.Module = "resnet50",
    weights: str | None = None,
    seeds: int | Sequence[int] = 3,
    threshold: float = 0.25,
    scored: Sequence[str] | None = None,
    limit: int | None = None,
    crf: bool = False,
    out: str | Path = "data/runs/baseline",
) -> list[Report]:
    """Train on ``train``, score on ``val``, print the table, write a page and the heads.

    Args:
        data: ``"voc"`` (its train and val splits) or ``"folder"`` (every fourth image is val).
        root: the data set's folder; None for ``data/VOC2012``, or ``data/mine`` of one's own.
        backbone: ``resnet18``, ``resnet34``, ``resnet50``, ``FILE.py:FUNCTION`` or a module.
        weights: of a named ResNet: ``"imagenet"`` or a file.
        seeds: how many heads are trained, or the seed of each.
        threshold: constant background score, fixed beforehand.
        scored: classes that count beside background; None for all.
        limit: only the first so many images of each split.
        crf: whether scores go through the dense CRF.
        out: folder for heads, figures and ``report.html``.

    Returns:
        One report a seed.

    Raises:
        ValueError: if a number or a class name is not right, or the folder cannot be written to,
            is in use or holds heads of another run; all before the first image is read.
    """
    rule = BackgroundRule(threshold=threshold)
    if isinstance(seeds, int):
        check_count("seeds", seeds)
        seeds = range(seeds)
    if not seeds:
        raise ValueError("seeds is empty, expected at least one; each trains a head")
    for seed in seeds:
        check_seed(seed, "a seed")
    check_given(check_count, limit=limit)
    check_word("data", data, ("voc", "folder"))
    root = default_root(data) if root is None else Path(root)
    train, val, target = _open(data, root, limit)
    if scored is not None and (unknown := sorted(set(scored) - set(val.classes))):
        known = ", ".join(val.classes)
        raise ValueError(f"scored names {', '.join(unknown)}, expected classes among {known}")
    with run_folder(out) as folder:
        expected = {f"head-seed-{seed}.safetensors" for seed in seeds}
        if others := sorted({p.name for p in folder.glob("head-seed-*.safetensors")} - expected):
            problem = f"{folder} holds {', '.join(others)} of another run, and the two would mix"
            raise ValueError(f"{problem}; give --out another folder, or remove them")
        network, name = _backbone(backbone, weights)
        cams = train_heads(network, train, seeds)
        for seed, cam in zip(seeds, cams, strict=True):
            card = {"method": "CAM head", "trunk": name, "seed": seed}
            card |= {"classes": list(cam.classes_), "losses": cam.losses_}
            save_model(folder / f"head-seed-{seed}", {"head": cam.head_}, card)
        stated = {"resolution": "original", "background": f"{rule}, fixed beforehand"}
        stated["refinement"] = "dense CRF" if crf else "none"
        stated["preset"] = f"frozen {name}, linear head, scales {SCALES} with flip"
        protocol = Protocol(f"{data} ({root.name})", "val", **stated)
        truth, masks = {name: target[name] for name in val.names}, predict_all(cams, val, rule, crf)
        options = {"classes": val.classes, "protocol": protocol, "scored": scored}
        reports = {}
        for seed, predicted in zip(seeds, masks, strict=True):
            reports[f"seed {seed}"] = evaluate(predicted, truth, **options)
        shown = [val[i] for i in range(0, len(val), max(1, len(val) // 8))][:8]
        columns = {"CAM": masks[0], "ground truth": truth}
        mean = sum(report.mean_iou for report in reports.values()) / len(reports)
        note = f"Mean of {len(reports)} seeds: {100 * mean:.1f} mIoU."
        page = write_report(
            folder / "report.html",
            title=f"Plain CAM on {protocol.data}",
            reports=reports,
            figures={"Images across val, first seed.": show_masks(shown, columns, val.classes)},
            notes=[note],
            beside="figure",
        )
        print(f"\n{table_text(reports)}\n\n{note}\n{page} shows it; the heads lie beside it.")
        return list(reports.values())


def _backbone(backbone: str | nn.Module, weights: str | None) -> tuple[nn.Module, str]:
    """Build the backbone; return it and its name for protocol and cards."""
    if not isinstance(backbone, str):
        name = type(backbone).__name__
    elif ":" in backbone:
        backbone, name = backbone_named(backbone), Path(backbone).name
    elif weights is None:
        print(f"No --weights: the backbone {backbone} is RANDOM, and the maps will mean little;")
        print("pass --weights imagenet or a file.")
        name = f"{backbone} with random weights"
    else:
        name = f"{backbone} with weights {Path(weights).name}"
    return build_backbone(backbone, weights=weights), name


def _open(
    data: str, root: Path, limit: int | None
) -> tuple[Dataset, Dataset, Mapping[str, Tensor]]:
    if data == "voc":
        train, val = (open_dataset("voc", root, split, limit=limit) for split in ("train", "val"))
        return train, val, val.open_masks()
    samples: Any = open_dataset(data, root, limit=limit)
    target = samples.open_masks()
    with_mask = [name for name in samples.names if name in target]
    if len(with_mask) < 4:
        count = f"{root} has {len(with_mask)} images with masks"
        raise ValueError(f"{count}; scoring needs at least 4 under masks/")
    held_out = with_mask[::4]
    train = samples.pick(name for name in samples.names if name not in set(held_out))
    return train, samples.pick(held_out), target


LONGEST = 500
"""Pixels of the longer side that images are shown to the model with, as VOC's have."""


def run_own_images(
    images: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | None = None,
    clip: str | None = None,
    weights: str | Path = "data/weights",
    limit: int = 12,
    device: str = "auto",
) -> Path:
    """Write a page with the maps and masks of CLIP-ES for a folder of images.

    With ``labels.csv`` in the folder (`load_folder`) each image is asked about its own classes,
    and where there is ``masks/`` as well the masks are scored. Without it each is asked about all
    ``classes``, as if all of them were in it.

    Args:
        images: the folder.
        out: where ``report.html`` and its figures go.
        classes: names of classes; needed where there is no ``labels.csv``.
        clip: ``"paper"`` for the tiny CLIP, which knows paper only; None for ViT-B/16.
        weights: folder that may hold OpenAI's ``ViT-B-16.pt``; else it is downloaded.
        limit: only the first so many images.
        device: where to work.

    Returns:
        The path of the page.

    Raises:
        ValueError: if the folder holds no image, or neither labels nor classes are given.
        FileNotFoundError: if it is not there.
        RuntimeError: if CLIP's weights are neither there nor to be fetched, with what to do.
    """
    check_count("limit", limit)
    samples = open_images(Path(images), classes)
    samples = samples[: min(limit, len(samples))]
    if clip == "paper":
        model, paper = load_clip("paper", device=device), Prompts.paper()
        backgrounds = tuple(word for word in paper.backgrounds if word not in samples.classes)
        prompts = Prompts(tuple(samples.classes), backgrounds, template=paper.templates[0])
    else:
        file = Path(weights) / "ViT-B-16.pt"
        file = file if file.exists() else "openai"
        model = load_clip("ViT-B-16-quickgelu", weights=file, device=device)
        prompts = Prompts.for_classes(samples.classes)
    with run_folder(out) as folder:
        return _write(folder, samples, CLIPES(model, prompts=prompts).fit())


def shrunk(image: Tensor, longest: int = LONGEST) -> Tensor:
    """Shrink an image (3, H, W) so that its longer side has at most ``longest`` pixels."""
    factor = longest / max(image.shape[1:])
    if factor >= 1:
        return image
    size = [max(1, round(side * factor)) for side in image.shape[1:]]
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _write(folder: Path, samples: LazySamples, method: CLIPES) -> Path:
    """Compute maps and masks, score the masks if there is a ground truth, and write the page."""
    try:
        truth = samples.open_masks()
    except FileNotFoundError:
        truth = {}
    target = {name: truth[name] for name in samples.names if name in truth}
    pipelines = {"CLIP-ES": Pipeline(method), "CLIP-ES, CRF": Pipeline(method, crf=True)}
    masks, scored = {row: {} for row in pipelines}, {row: {} for row in pipelines}
    shown, cams, answers = [], [], [["image", "asked about", "what CLIP says of it"]]
    failed = []
    for number in progress(range(len(samples)), what="CLIP-ES"):
        try:
            sample = samples[number]
        except (OSError, ValueError) as error:  # the others go on
            failed.append(f"{samples.names[number]} cannot be read: {error}")
            continue
        small = sample._replace(image=shrunk(sample.image))
        (_, H, W), present = small.image.shape, sample.labels > 0
        maps, words = torch.zeros(len(samples.classes), H, W), ("nothing", "-")
        names = [samples.classes[c] for c in present.nonzero().flatten()]
        if names:
            refined = method.open(small.image, names).maps()
            maps[present] = refined.full_size((H, W)).float().cpu()
            texts = [*names, *method.prompts.backgrounds]
            probs, best = refined.probs.topk(min(3, len(texts)))
            best = zip(best.tolist(), probs.tolist(), strict=True)
            words = ", ".join(names), ", ".join(f"{texts[i]} {100 * p:.0f} %" for i, p in best)
        scores = method.background.scores(maps[None])
        for row, pipeline in pipelines.items():
            (mask,) = pipeline.masks_of(scores, small.image[None], small.labels[None])
            masks[row][sample.name] = mask
            if sample.name in target:  # the ground truth is scored at its own size
                resized = F.interpolate(mask[None, None].float(), size=target[sample.name].shape)
                scored[row][sample.name] = resized[0, 0].long()
        shown.append(small)
        cams.append(maps)
        answers.append([sample.name, *words])
    if not shown:
        raise ValueError(f"no image can be read; the first: {failed[0]}")
    target = {name: target[name] for name in target if name in masks["CLIP-ES"]}
    figures = {  # the first one leads the page
        "Masks without and with the dense CRF.": show_masks(shown, masks, samples.classes),
        "The images and the classes they are asked about.": show_samples(shown, samples.classes),
        "CLIP-ES: one map for every class that is asked about.": show_cams(
            shown, cams, samples.classes, [sample.labels for sample in shown]
        ),
    }
    reports = {}
    for row, pipeline in pipelines.items() if target else ():
        stated: Any = {"background": str(pipeline.rule), "refinement": pipeline.refinement}
        stated |= {"preset": method.preset, "resolution": "image"}
        protocol = Protocol("own images", "all", **stated)
        reports[row] = evaluate(scored[row], target, classes=samples.classes, protocol=protocol)
    words = ", ".join(method.prompts.backgrounds)
    notes = [
        f"No training: a CLIP compares each class with background words ({words}). Class names are "
        f"asked as {method.prompts.class_texts()[0]!r}.",
        f"Background is {method.background}, as published; images are shown to the model with at "
        f"most {LONGEST} pixels on the longer side.",
        'To change words and see what they do: notebook 05 with DATA = "folder", or '
        "widgets.PromptLab.",
        *failed,
    ]
    page = write_report(
        folder / "report.html",
        title="CLIP-ES on images of your own",
        reports=reports,
        figures=figures,
        tables={"What CLIP says, a softmax over the classes and background words": answers},
        notes=notes,
        beside="figure",
    )
    if reports:
        print(f"\n{table_text(reports)}\n")
    print(f"{page} shows {len(shown)} images: maps, masks, and what CLIP says of each.", *failed)
    return page
