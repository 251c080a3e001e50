"""Score masks on disk (``evaluate``); measure a published number again (``reproduce``)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_kit.checks import check_count, check_device, check_given, check_seed
from wsss_kit.commands import masks_in, protocol_of, read_maps, run_folder
from wsss_kit.commands.train_method import CONFIG
from wsss_kit.data import LazyMasks, open_dataset
from wsss_kit.evaluation import (
    ERROR_KINDS,
    BackgroundRule,
    ConfusionMatrix,
    Published,
    Report,
    beside_published,
    best_rule,
    evaluate,
    explain_gap,
    published,
    published_rows,
)
from wsss_kit.evaluation.published_numbers import published_table, written_differences
from wsss_kit.files import expanded, write_whole
from wsss_kit.paperworld import STUFF, PaperWorld
from wsss_kit.plot.reports import report_figures, write_report


def run_evaluate(
    folder: str | Path,
    /,
    *,
    data: str = "voc",
    root: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    scored: Sequence[str] | None = None,
    power: Sequence[float] | None = None,
    row: str | None = None,
    out: str | Path | None = None,
    json: str | Path | None = None,
    csv: str | Path | None = None,
) -> Report:
    """Score a folder of masks, print the table and write ``report.html``.

    Args:
        folder: that ``masks`` wrote, or any folder of ``NAME.png``.
        data: ``"voc"``, ``"coco"``, ``"pets"``, ``"folder"`` or ``"paper"`` (the embedded world).
        root: folder of the data set; None for the one that `download` writes.
        split: None for ``train_aug`` of VOC, ``train`` or ``trainval``; published masks are scored
            on VOC's ``train``.
        limit: only the first so many images.
        scored: classes that count beside background; None for all. Pixels of others do not.
        power: exponents of backgrounds (1 - max)^power for the soft maps of the folder. The masks
            by the best of them are scored: chosen on the scored images, as papers do with maps.
        row: a published number to stand beside ours, as ``reproduce`` lists them.
        out: of the page; None for ``report.html`` in ``folder``.
        json: file for all numbers with their protocol, `Report.to_json`; None for none.
        csv: file for a row a class, `Report.to_frame`; None for none.

    Returns:
        The report.

    Raises:
        ValueError: if there is no ground truth, or masks and images do not fit.
        FileNotFoundError: if the data, the masks or the soft maps are not there.
    """
    if out is not None and (Path(out).suffix.lower() != ".html" or Path(out).is_dir()):
        raise ValueError(f"--out is {out}, expected a file that ends in .html, such as report.html")
    beside, folder = published(row) if row is not None else None, expanded(folder)
    samples = open_dataset(data, root, split, limit=limit)
    target = samples.open_masks()
    predicted, settings = masks_in(folder, samples)
    target = {name: target[name] for name in samples.names if name in target}
    if power is not None:
        rule, predicted = _best_power(power, folder, predicted, target, len(samples.classes))
        span = f"{min(power):g} to {max(power):g}"
        settings = {**settings, "background": f"the best of the powers {span}, chosen here: {rule}"}
        before = settings.get("refinement", "none").replace(", dense CRF", "")
        settings["refinement"] = before.replace("dense CRF", "none")  # maps are from before it
    protocol = protocol_of(settings, data, samples.split)
    options: dict[str, Any] = {"classes": samples.classes, "protocol": protocol, "scored": scored}
    if isinstance(samples, PaperWorld):
        options |= {"stuff": samples.stuff, "stuff_names": STUFF}
    report = evaluate(predicted, target, **options)
    if not report.image_iou:
        raise ValueError("the ground truth is 255 everywhere, so there is nothing to score")
    errors = [["class", "IoU", *ERROR_KINDS], *report.rows()]
    tables = {"IoU and what each kind of error takes from it, in percent": errors}
    notes = []
    if beside is not None and beside.percent is not None:
        frame = beside_published(report, method=beside.method, what=beside.what).round(1)
        frame = frame.reset_index().astype(str)
        rows: Any = [[*frame], *frame.to_numpy().tolist()]
        tables["Ours beside what is published, percent"] = rows
        notes.append(str(explain_gap(report, beside)))
    page = write_report(
        (folder if folder.is_dir() else folder.parent) / "report.html" if out is None else out,
        title=f"{settings.get('method', 'Masks')} on {protocol.data} {protocol.split}",
        reports={"masks": report},
        figures=report_figures(report, samples, predicted, target),
        notes=notes,
        tables=tables,
    )
    if json is not None:
        write_whole(json, report.to_json())
    if csv is not None:
        write_whole(csv, report.to_frame().to_csv())
    print(f"{report}\n{page} has the tables and figures.")
    if beside is not None:
        of = f"{beside.value:g} ({beside.unit}) of {beside.data} {beside.split}"
        other = written_differences(report, beside) or "nothing"
        print(f"published: {of}; other in ours: {other}")
    return report


def _best_power(
    powers: Sequence[float],
    folder: Path,
    masks: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    n_classes: int,
) -> tuple[BackgroundRule, LazyMasks]:
    """Return the power with the highest mIoU, and the masks that it makes of the soft maps."""

    def soft_maps(name: str) -> tuple[Tensor, Tensor]:
        """Read the maps (1, C, H, W) of one image, zero for absent classes, and its labels."""
        maps, labels = torch.zeros(1, n_classes, *masks[name].shape), torch.zeros(1, n_classes)
        for c, each in read_maps(folder, name).items():
            maps[0, c], labels[0, c] = each, 1
        return maps, labels

    matrices = {BackgroundRule(power=each): ConfusionMatrix(1 + n_classes) for each in powers}
    for name, truth in target.items():
        maps = soft_maps(name)  # read once for all rules
        for rule, matrix in matrices.items():
            matrix.update(rule.masks(*maps)[0], truth)
    best = best_rule({rule: float(each.iou().nanmean()) for rule, each in matrices.items()})
    return best, LazyMasks(
        list(masks), read=lambda name: best.masks(*soft_maps(name))[0], folder=folder
    )


COMMANDS = "commands.txt"


@dataclass(frozen=True)
class Need:
    """One file or folder that a row needs.

    Args:
        path: where it is expected.
        what: content of the file or folder.
        source: where it comes from.
        exists: whether it is there.
        fetched: name by which a library downloads it, or None.
    """

    path: Path
    what: str
    source: str
    exists: bool
    fetched: str | None = None

    @property
    def missing(self) -> bool:
        """Whether it has to be put there by hand."""
        return not self.exists and self.fetched is None

    def __str__(self) -> str:
        """Return one line with its state."""
        state = "there" if self.exists else "MISSING" if self.missing else "fetched"
        return f"[{state}] {self.path}: {self.what}{'' if self.exists else f'; {self.source}'}"


def run_reproduce(
    row: str | None = None,
    /,
    *,
    root: str | Path | None = None,
    weights: str | Path = "data/weights",
    out: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    iterations: int | None = None,
    device: str = "auto",
    run: bool = False,
) -> int:
    """Print the commands of a published number and what they need, or run them in order.

    Without a row, list which there are. A second run goes on where the first was stopped.

    Args:
        row: name of a row, such as ``clip-es/train/crf`` or ``paper/clip-es``; None for the list.
        root: folder of VOC or COCO; None for ``data/VOC2012`` or ``data/COCO2014``.
        weights: folder of files of weights, under the names that are printed.
        out: folder of masks, weights and pages; None for one named after the row.
        seed: of every training.
        limit: a trial: only the first so many images of each split.
        iterations: a trial: steps of the segmenter.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, or ``"auto"`` for CUDA where there is one.
        run: whether to run the commands, or go on where they were stopped.

    Returns:
        Exit status of the command that failed, or 0.

    Raises:
        ValueError: if there is no such row, or it has no commands and is to be run.
        FileNotFoundError: if something has to be put in its place before the commands can run.
    """
    if row is None:
        for each in published_rows():
            if each.commands:
                numbers = f"{each.method:<12} {each.what:<10} {each.value:>5g}"
                print(f"{each.name:<28} {numbers}  {each.data} {each.split}")
        others = sum(not each.commands for each in published_rows())
        print(f"{others} more have no recipe; `reproduce ROW` says why, and what these need.")
        return 0
    name, found = row, published(row)
    check_seed(seed)
    check_device(device)
    check_given(check_count, limit=limit, iterations=iterations)
    if found.cannot:
        print(f"{found}\nThis cannot be run: {found.cannot}.")
        if run:
            raise ValueError(f"{name} cannot be run: {found.cannot}; expected another row")
        return 0
    folder = Path("data/runs") / name.replace("/", "-") if out is None else Path(out)
    found = replace(found, commands=tuple(_shortened(c, limit, iterations) for c in found.commands))
    if root is None:
        root = published_table()["data"].get(found.data, {}).get("root", "")
    needs = needs_of(found, root=root, weights=weights)
    places = {"root": str(Path(root)), "weights": str(weights), "out": str(folder)}
    commands = filled(found, needs, **places, seed=str(seed))
    print(found, "Commands:", *(f"  {_line(command)}" for command in commands), sep="\n")
    print("Needs:", *(needs or ["nothing that the package does not bring"]), sep="\n  ")
    if limit is not None or iterations is not None:
        print("A trial on a part of the images or with fewer steps, not the row itself.")
    if not run:
        return 0
    if missing := [str(need.path) for need in needs if need.missing]:
        count = f"{len(missing)} of {len(needs)} things are missing: {', '.join(missing)}"
        raise FileNotFoundError(f"{count}; the list above says where each comes from")
    with run_folder(folder):
        return _run(commands, folder, device)


def needs_of(
    row: Published, *, root: str | Path, weights: str | Path = "data/weights"
) -> list[Need]:
    """List the files and folders that the commands of a row read, found or not.

    Args:
        row: from `evaluation.published`.
        root: folder of the data set.
        weights: folder of files of weights.
    """
    table, lines = published_table(), "\n".join(row.commands)
    data = table["data"].get(row.data, {})
    splits = sorted(set(re.findall(r"--split (\S+)", lines)))
    needs = []
    for need in data.get("needs", ()):
        if need.get("only", "") not in lines:
            continue
        for split in splits if "{split}" in need["what"] else [""]:
            paths = [Path(root) / need[k].format(split=split) for k in ("path", "or") if k in need]
            source = data.get("lists", {}).get(split, data["source"])
            exists = any(path.exists() for path in paths)
            needs.append(Need(paths[0], need["what"].format(split=split), source, exists))
    for name in dict.fromkeys(re.findall(r"\{weights\}/(\S+)", lines)):
        path = Path(weights) / name
        needs.append(Need(path, exists=path.exists(), **table["files"][name]))
    return needs


def filled(row: Published, needs: Sequence[Need], **places: str) -> list[list[str]]:
    """Fill in the commands of a row, each as a list of words.

    Args:
        row: from `evaluation.published`.
        needs: of `needs_of`; a file that is not there is replaced by the name it is fetched by.
        **places: ``root``, ``weights``, ``out`` and ``seed``.
    """
    fetched = {str(need.path): need.fetched for need in needs if not need.exists and need.fetched}
    lines = [[word.format(**places) for word in line.split()] for line in row.commands]
    return [[fetched.get(str(Path(word)), word) for word in words] for words in lines]


def _shortened(line: str, limit: int | None, iterations: int | None) -> str:
    """Shorten a command for a trial: fewer images, fewer steps of the segmenter."""
    if limit is not None and not line.startswith("#"):
        limits = map(int, re.findall(r" --limit (\d+)", line))
        line = re.sub(r" --limit \d+", "", line) + f" --limit {min([limit, *limits])}"
    if iterations is not None and line.startswith("train segmenter"):
        line = re.sub(r" --epochs \d+", "", line) + f" --iterations {iterations}"
    return line


def _line(command: Sequence[str]) -> str:
    is_comment = command[0] == "#"
    return " ".join(command) if is_comment else f"python -m wsss_kit {shlex.join(command)}"


def _run(commands: Sequence[list[str]], folder: Path, device: str) -> int:
    """Run the commands in order, up to the first that fails."""
    from wsss_kit.commands.line import main

    text = "".join(f"{_line(command)}\n" for command in commands)
    record = folder / COMMANDS
    if record.exists() and record.read_text(encoding="utf-8") != text:
        problem = f"{folder} holds a run of other commands ({COMMANDS} lists them)"
        raise ValueError(f"{problem}, expected the same ones; give --out another folder")
    write_whole(record, text)
    for command in commands:
        done, resume = False, []
        if command[0] == "train":  # masks look themselves whether they are done
            written = Path(command[command.index("--out") + 1])
            done = (written / f"{command[1]}.safetensors").exists()
            if (written / CONFIG).exists() and not done:
                resume = ["--resume"]
        print(f"\n{_line([*command, *resume])}{' (done)' * done}")
        if done or command[0] == "#":
            continue
        on = ["--device", device] if device != "auto" and command[0] != "evaluate" else []
        if status := main([*command, *resume, *on]):
            return status
    return 0
