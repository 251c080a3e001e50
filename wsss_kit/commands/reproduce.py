"""Measure a published number again: print its commands with what they need, or run them."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsss_kit.checks import check_count, check_device, check_given
from wsss_kit.commands.generate import MANIFEST
from wsss_kit.commands.resources import run_folder
from wsss_kit.commands.train_method import CONFIG
from wsss_kit.evaluation import Published, published, published_rows
from wsss_kit.evaluation.published_numbers import published_table
from wsss_kit.files import write_whole

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
        source = "" if self.exists else f"; {self.source}"
        return f"[{state}] {self.path}: {self.what}{source}"


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

    Without a row, list which there are.

    A second run goes on where the first was stopped: a command whose product is there is skipped,
    and an unfinished training is resumed.

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
    name, row = row, published(row)
    check_count("seed", seed, least=0)
    check_device(device)
    check_given(check_count, limit=limit, iterations=iterations)
    if row.cannot:
        print(f"{row}\nThis cannot be run: {row.cannot}.")
        if run:
            raise ValueError(f"{name} cannot be run: {row.cannot}; expected another row")
        return 0
    folder = Path("data/runs") / name.replace("/", "-") if out is None else Path(out)
    row = replace(row, commands=tuple(_shortened(c, limit, iterations) for c in row.commands))
    if root is None:
        root = published_table()["data"].get(row.data, {}).get("root", "")
    needs = needs_of(row, root=root, weights=weights)
    places = {"root": str(Path(root)), "weights": str(weights), "out": str(folder)}
    commands = filled(row, needs, **places, seed=str(seed))
    print(row, "Commands:", *(f"  {_line(command)}" for command in commands), sep="\n")
    print("Needs:", *(needs or ["nothing that the package does not bring"]), sep="\n  ")
    if limit is not None or iterations is not None:
        print("A trial on a part of the images or with fewer steps, not the row itself.")
    if not run:
        return 0
    missing = [str(need.path) for need in needs if need.missing]
    if missing:
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
    commands = []
    for line in row.commands:
        words = [word.format(**places) for word in line.split()]
        commands.append([fetched.get(str(Path(word)), word) for word in words])
    return commands


def _shortened(line: str, limit: int | None, iterations: int | None) -> str:
    """Shorten a command for a trial: fewer images, fewer steps of the segmenter."""
    if limit is not None and not line.startswith("#"):
        limits = map(int, re.findall(r" --limit (\d+)", line))
        line = re.sub(r" --limit \d+", "", line) + f" --limit {min([limit, *limits])}"
    if iterations is not None and line.startswith("train segmenter"):
        line = re.sub(r" --epochs \d+", "", line) + f" --iterations {iterations}"
    return line


def _line(command: Sequence[str]) -> str:
    if command[0] == "#":
        return " ".join(command)
    return f"python -m wsss_kit {shlex.join(command)}"


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
        if command[0] in ("masks", "train"):
            written = Path(command[command.index("--out") + 1])
            product = MANIFEST if command[0] == "masks" else f"{command[1]}.safetensors"
            done = (written / product).exists()
            if command[0] == "train" and (written / CONFIG).exists() and not done:
                resume = ["--resume"]
        print(f"\n{_line([*command, *resume])}{' (done)' * done}")
        if done or command[0] == "#":
            continue
        on = ["--device", device] if device != "auto" and command[0] != "evaluate" else []
        if status := main([*command, *resume, *on]):
            return status
    return 0
