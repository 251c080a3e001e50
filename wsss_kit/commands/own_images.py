"""``python -m wsss_kit demo --pictures FOLDER``: CLIP-ES on images of one's own, on one page."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import check_count
from wsss_kit.clip import load_clip
from wsss_kit.commands.resources import openai_clip, run_folder
from wsss_kit.data import LazySamples, open_dataset
from wsss_kit.data.images import read_image
from wsss_kit.evaluation import Protocol, evaluate
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.pipeline import Pipeline
from wsss_kit.plot import show_cams, show_masks, show_samples
from wsss_kit.plot.reports import table_text, write_report
from wsss_kit.processes import progress
from wsss_kit.prompts import Prompts

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
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
        weights: folder of files of weights, see `named.openai_clip`.
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
    samples = _open(Path(images), classes)
    samples = samples[: min(limit, len(samples))]
    if clip == "paper":
        model, paper = load_clip("paper", device=device), Prompts.paper()
        backgrounds = [word for word in paper.backgrounds if word not in samples.classes]
        prompts = Prompts(tuple(samples.classes), backgrounds, template=paper.templates[0])
    else:
        model = openai_clip("ViT-B-16", Path(weights), device)
        prompts = Prompts.for_classes(samples.classes)
    with run_folder(out) as folder:
        return _write(folder, samples, CLIPES(model, prompts=prompts).fit())


def _open(folder: Path, classes: Sequence[str] | None) -> LazySamples:
    """Open the images with the classes that each is asked about."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}, expected one of images")
    if (folder / "labels.csv").is_file():
        return open_dataset("folder", folder, classes=classes)
    files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in ENDINGS}
    if not files:
        problem = f"{folder} holds no image ({', '.join(ENDINGS)})"
        raise ValueError(f"{problem}, expected some, beside a labels.csv or with --classes")
    if not classes:
        problem = f"{folder} has no labels.csv, so say which classes to look for: --classes cat,dog"
        raise ValueError(f"{problem}; or write one: file,labels, several names with ; between")
    readers = {"image": lambda name: read_image(files[name])}
    readers["labels"] = lambda name: torch.ones(len(classes))
    return LazySamples(list(files), **readers, classes=tuple(classes), split=None)


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
    for sample in progress(samples, what="CLIP-ES", total=len(samples)):
        small = sample._replace(image=shrunk(sample.image))
        size, present = tuple(small.image.shape[1:]), sample.labels > 0
        maps, words = torch.zeros(len(samples.classes), *size), ("nothing", "-")
        names = [samples.classes[c] for c in present.nonzero().flatten()]
        if names:
            refined = method.open(small.image, names).maps()
            maps[present] = refined.full_size(size).float().cpu()
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
    figures = {  # the first one leads the page
        "Masks without and with the dense CRF.": show_masks(shown, masks, samples.classes),
        "The images and the classes they are asked about.": show_samples(shown, samples.classes),
        "CLIP-ES: one map for every class that is asked about.": show_cams(
            shown, cams, samples.classes, [sample.labels for sample in shown]
        ),
    }
    reports = {}
    for row, pipeline in pipelines.items() if target else ():
        stated = {"background": str(pipeline.rule), "refinement": pipeline.refinement}
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
    print(f"{page} shows {len(shown)} images: maps, masks, and what CLIP says of each.")
    return page
