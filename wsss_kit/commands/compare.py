"""Judge masks from anywhere (``compare``), and hand masks to other programs (``export``)."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_kit.checkpoints import fingerprint
from wsss_kit.checks import check_count, check_given
from wsss_kit.commands import MANIFEST, masks_in, protocol_of, read_masks, run_folder
from wsss_kit.commands.masks import run_masks
from wsss_kit.commands.train_method import CONFIG, train_method
from wsss_kit.data import Dataset, LazyMasks, open_dataset
from wsss_kit.data.exchange import ENDINGS, read_file
from wsss_kit.data.export import export_masks
from wsss_kit.data.folder import IMAGE_ENDINGS, MASKS, open_images
from wsss_kit.evaluation import (
    Agreement,
    Judgement,
    agree,
    disagreement_map,
    error_sources,
    judge,
)
from wsss_kit.evaluation.report import percent
from wsss_kit.files import expanded, files_below, is_saved, read_card, write_whole
from wsss_kit.paperworld import STUFF, PaperWorld
from wsss_kit.plot import iou_bars, show_cams, show_errors, show_masks
from wsss_kit.plot.reports import samples_named, show_difference, write_report

TRUTH = "ground truth"  # its column in figures


def run_compare(
    folder: str | Path | None = None,
    /,
    *,
    masks: Sequence[str | Path] = (),
    methods: Sequence[str] = (),
    truth: str | Path | None = None,
    data: str = "folder",
    split: str | None = None,
    classes: Sequence[str] | None = None,
    scored: Sequence[str] | None = None,
    crf: bool = False,
    limit: int | None = None,
    out: str | Path = "data/runs/compare",
    device: str = "auto",
) -> Judgement | Agreement:
    """Judge sets of masks of one's own images, and write ``report.html``.

    With a ground truth: mIoU with intervals, paired differences, ranks that tie where no difference
    was shown, kinds of errors, the largest errors and the worst images. Without one: where the sets
    agree, and never a rank.

    Args:
        folder: of images, with ``labels.csv`` or not, or of another data set; None for the one that
            `download` writes.
        masks: sets of masks as ``NAME=PLACE``: a folder of palette PNGs, grey PNGs or NumPy arrays,
            a JSON file of COCO, or a folder that ``masks`` wrote.
        methods: of the kit, which run first: ``cam`` (a head trained on these images), or whatever
            ``masks`` takes, such as ``clip-es``, with a name before it or not (``NAME=METHOD``).
            They need image-level labels.
        truth: place of the ground truth; None for that of the data set, if it has one.
        data: ``"folder"``, ``"voc"``, ``"coco"``, ``"pets"`` or ``"paper"`` (the embedded world).
        split: of the data set.
        classes: of a folder without ``labels.csv``: names of the mask values 1, 2 and so on.
        scored: classes that count beside background; None for all.
        crf: whether the dense CRF follows the maps of ``methods``.
        limit: only the first so many images.
        out: folder of the page, of tables as CSV and of the masks of ``methods``.
        device: of ``methods``.

    Returns:
        The judgement, or the agreement if there is no ground truth.

    Raises:
        ValueError: if there are fewer than two sets, or masks do not fit images or classes. The
            message names the set.
        FileNotFoundError: if images or masks are not there.
    """
    check_given(check_count, limit=limit)
    out = expanded(out)
    named = [_named(str(text), "--masks") for text in masks]
    ran = dict(_named(text, "--methods") for text in methods)
    places = {**dict(named), **{name: str(out / "masks" / name) for name in ran}}
    if len(places) < len(named) + len(methods) or len(places) < 2:
        listed = ", ".join([*(name for name, _ in named), *ran]) or "none"
        expected = "two or more with different names: --masks NAME=PLACE, --methods METHOD"
        raise ValueError(f"the sets of masks are {listed}; expected {expected}")
    if data == "paper" and folder is not None:
        raise ValueError(f"the embedded world has no folder, and {folder} is given; leave it out")
    if data == "folder" and folder is not None and split is None:
        samples = open_images(folder := expanded(folder), classes, inner=True)[:limit]
        if not (folder / "labels.csv").exists():
            for name, place in named:
                if folder.resolve() in expanded(place).resolve().parents:
                    problem = f"{name} lies in {folder}, all of whose images are compared"
                    raise ValueError(f"{problem}; move it elsewhere, or give another folder")
            truth = truth or (folder / MASKS if files_below(folder / MASKS) else None)
    else:
        samples = open_dataset(data, folder, split, limit=limit, classes=classes)
    target = _truth(samples, truth)
    made = {"data": data, "root": folder, "split": split, "limit": limit, "device": device}
    if ran and classes is not None:
        own = open_dataset(data, folder, split, limit=limit).classes
        if own != samples.classes:
            problem = f"--classes are {', '.join(samples.classes)}, of the labels {', '.join(own)}"
            raise ValueError(f"{problem}; methods need those of the labels, so leave --classes out")
    with run_folder(out) as page_folder:
        for name, method in ran.items():
            _make(method, Path(places[name]), page_folder / "cam", crf, samples, made)
        sets, stated = {}, {}
        for name, place in places.items():
            try:
                sets[name], card = masks_in(expanded(place), samples)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            stated[name] = protocol_of(card, data, samples.split)
        if target is None:
            sets = {n: _of_names(each, samples.names, n) for n, each in sets.items()}
            return _write_agreement(page_folder, samples, sets)
        options: dict[str, Any] = {"classes": samples.classes, "protocol": stated, "scored": scored}
        if isinstance(samples, PaperWorld):
            options |= {"stuff": samples.stuff, "stuff_names": STUFF}
        judged = judge(sets, target, **options)
        return _write_judgement(page_folder, samples, sets, target, judged)


def _named(text: str, option: str) -> tuple[str, str]:
    """Split ``NAME=PLACE``; a method may come without a name."""
    name, equals, place = text.partition("=")
    if not equals and option == "--methods":
        return Path(text).stem if ".py:" not in text else text.rpartition(":")[2], text
    if not (equals and name.strip() and place) or re.search(r"[/\\]", name):
        raise ValueError(f"{option} is {text!r}, expected NAME=PLACE, such as mine=data/mine")
    if name.strip() == TRUTH:
        raise ValueError(f"a set is called {TRUTH!r}, as the page calls --truth; rename it")
    return name.strip(), place


def _truth(samples: Dataset, place: str | Path | None) -> LazyMasks | None:
    """Open the ground truth of the images that have one; None if there is none."""
    try:
        masks = samples.open_masks() if place is None else masks_in(expanded(place), samples)[0]
    except FileNotFoundError:
        if place is None:
            return None
        raise
    names = [name for name in samples.names if name in masks]
    return _of_names(masks, names, f"the {TRUTH}")


def _of_names(masks: Mapping[str, Tensor], names: Sequence[str], called: str) -> LazyMasks:
    """Take the masks of these images only, all of which have to be there; errors name the set."""
    if missing := [name for name in names if name not in masks]:
        problem = f"{called} has no mask of {len(missing)} of {len(names)} images"
        raise ValueError(f"{problem}, such as {missing[0]!r}; expected one of each image")

    def read(name: str) -> Tensor:
        try:
            return masks[name]
        except (OSError, ValueError) as error:
            raise ValueError(f"{called}: {error}") from error

    return LazyMasks(names, read=read, folder=called)


def _make(
    method: str,
    place: Path,
    trained: Path,
    crf: bool,
    samples: Dataset,
    made: Mapping[str, Any],
) -> None:
    """Write the masks of a method of the kit, or go on where that was stopped."""
    if method == "cam":
        mark, images = trained / "images.txt", f"{fingerprint(samples)}\n"
        if resume := (trained / CONFIG).exists():
            if not mark.exists() or mark.read_text() != images:
                problem = f"{trained} holds a head that learned from other images or labels"
                raise ValueError(f"{problem}; give --out another folder, or remove it")
        else:
            write_whole(mark, images)
        if not is_saved(trained / "cam"):
            train_method("cam", trained, resume=resume, train_backbone=False, validate=0, **made)
        method = str(trained / "cam")
    run_masks(method, place, crf=crf, **made)


def _write_judgement(
    folder: Path,
    samples: Dataset,
    sets: Mapping[str, Mapping[str, Tensor]],
    target: Mapping[str, Tensor],
    judged: Judgement,
) -> Judgement:
    """Write the page and the tables of a judgement, and print it."""
    reports, order = judged.reports, [*judged.reports]
    of_image = {n: [r.image_iou[n] for r in reports.values() if n in r.image_iou] for n in target}
    spread = {name: max(each) - min(each) for name, each in of_image.items() if each}
    differing = sorted(spread, key=lambda name: (-spread[name], name))[:4]
    columns = {**{name: sets[name] for name in order}, TRUTH: target}
    figures = {
        "The images on which the sets differ most.": show_masks(
            samples_named(samples, differing), columns, samples.classes
        ),
        "IoU of every class.": iou_bars(reports),
    }
    for pair in pairwise(order):
        title = "{1} minus {0}, class by class.".format(*pair)
        figures[title] = show_difference(judged.pairs[pair], first=pair[0], second=pair[1])
    errors = [["masks", "class", "kind", "with", "points"]]
    for name, report in reports.items():
        worst = samples_named(samples, [each for each, _ in report.worst[:6]])
        title = f"{name}: kinds of errors, and the worst images."
        figures[title] = show_errors(worst, sets[name], target, report)
        largest = error_sources(report).sort_values("points", ascending=False, kind="stable")
        errors += [[name, *each[:3], f"{each[3]:.1f}"] for each in largest.to_numpy()[:6].tolist()]
    differences = [["first", "second", "second minus first [95 %]", "better", "worse", "verdict"]]
    for (first, second), each in judged.pairs.items():
        low, high = each.interval
        span = f"{100 * each.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        verdict = ("tie", f"{second} is better", f"{first} is better")[each.sign]
        differences.append([first, second, span, str(each.better), str(each.worse), verdict])
    page = write_report(
        folder / "report.html",
        title=f"{len(order)} sets of masks of {len(target)} images, judged",
        reports={f"{judged.ranks[name]}. {name}": report for name, report in reports.items()},
        figures=figures,
        notes=[
            "A rank is 1 + the number of sets that are better and whose interval leaves 0 out: "
            "sets tie where no difference was shown. Each interval holds 95 % by itself; of "
            f"{len(judged.pairs)} pairs one in twenty leaves 0 out by chance."
        ],
        tables={
            "Paired differences, in points of mIoU; images that are better and worse": differences,
            "The largest errors and what they were taken for, in points of the class's IoU": errors,
        },
    )
    (folder / "agreement.csv").unlink(missing_ok=True)  # of a run without ground truth
    write_whole(folder / "ranks.csv", judged.to_frame().to_csv())
    write_whole(folder / "differences.csv", judged.pairs_frame().to_csv(index=False))
    print(f"{judged}\n{page} has figures and tables; ranks.csv and differences.csv lie beside it.")
    return judged


def _write_agreement(
    folder: Path, samples: Dataset, sets: Mapping[str, Mapping[str, Tensor]]
) -> Agreement:
    """Write the page and the table of an agreement, and print it."""
    found = agree(sets, samples.classes)
    names = [name for name, _ in found.most_disputed[:6]]
    shown = samples_named(samples, names)
    maps = [disagreement_map([each[name] for each in sets.values()])[None] for name in names]
    figures = {
        "The images on which the sets differ most.": show_masks(shown, sets, samples.classes),
        "Where they differ: the share of the pairs of sets with two values at a pixel.": show_cams(
            shown, maps, ["disagreement"], torch.ones(len(shown), 1)
        ),
    }
    frame = found.to_frame().set_index(["first", "second"]).map(percent).reset_index()
    disputed = [[name, percent(share)] for name, share in found.most_disputed]
    page = write_report(
        folder / "report.html",
        title=f"{len(sets)} sets of masks of {len(samples)} images, without ground truth",
        reports={},
        figures=figures,
        notes=["There is no ground truth, so nothing here says which set is better."],
        tables={
            "Agreement in percent: pixels of one value, and the mean IoU of one set by the other": [
                ["first", "second", "pixels", "mIoU"],
                *frame.to_numpy().tolist(),
            ],
            "Images with most disagreement, in percent": [["image", "disagreement"], *disputed],
        },
    )
    for table in ("ranks.csv", "differences.csv"):  # of a run with a ground truth
        (folder / table).unlink(missing_ok=True)
    write_whole(folder / "agreement.csv", found.to_frame().to_csv(index=False))
    print(f"{found}\n{page} has figures and tables; agreement.csv lies beside it.")
    return found


def run_export(
    folder: str | Path,
    /,
    to: str,
    *,
    out: str | Path | None = None,
    classes: Sequence[str] | None = None,
    images: str | Path | None = None,
    prefix: str = "/data/local-files/?d=",
) -> Path:
    """Write a folder of masks as one file for other programs; 255 becomes a region "doubt".

    Args:
        folder: that ``masks`` wrote, or any folder of ``NAME.png`` or ``NAME.npy``.
        to: ``"coco-rle"`` or ``"label-studio"``.
        out: the JSON file; None for ``coco-rle.json`` or ``label-studio.json`` in ``folder``.
        classes: names of the values 1, 2 and so on, where ``folder`` does not know them.
        images: folder of the images, for their file names; None for ``NAME.jpg``.
        prefix: of Label Studio: stands before a file name, where it serves files.

    Returns:
        The path of the file.

    Raises:
        ValueError: if there is no such format, or masks and classes do not fit.
        FileNotFoundError: if there are no masks.
    """
    folder = expanded(folder)
    if (folder / MANIFEST).is_file():
        masks, classes = read_masks(folder, classes).masks, read_card(folder / MANIFEST)["classes"]
    elif not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}, expected one of masks")
    else:
        found = _by_name(folder, ENDINGS)
        if not found or not classes:
            lacks = "--classes are not given" if found else "it holds no mask"
            raise ValueError(f"{folder} is not exported: {lacks}; expected NAME.png and --classes")
        masks = LazyMasks(found, read=lambda name: read_file(found[name]), folder=folder)
    files = None
    if images is not None:
        files = _by_name(images := expanded(images), IMAGE_ENDINGS)
        files = {n: f.relative_to(images).as_posix() for n, f in files.items()}
        if missing := [name for name in masks if name not in files]:
            problem = f"{images} has no image of {len(missing)} of {len(masks)} masks"
            raise ValueError(f"{problem}, such as {missing[0]!r}; expected one of each")
    file = folder / f"{to}.json" if out is None else out
    file = export_masks(masks, classes, file, to=to, files=files, prefix=prefix)
    print(f"{file} holds the regions of {len(masks)} masks.")
    return file


def _by_name(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Find files below a folder by name: their path in it without the ending."""
    found: dict[str, Path] = {}
    for file in files_below(folder):
        if file.suffix.lower() in endings and file.name[0] != ".":
            first = found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
            if first is not file:
                raise ValueError(f"{first} and {file} have one name; remove one")
    return found
