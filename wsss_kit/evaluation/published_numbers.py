"""The numbers of the papers and of their code as data: each with its unit and its protocol."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss_kit.evaluation.report import Report, percent

if TYPE_CHECKING:
    import pandas as pd

NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number. What nobody states is ``"not stated"``, and compares with nothing.

    Args:
        name: of the row, such as ``"clip-es/train/crf"``.
        method: ``"CAM"``, ``"SC-CAM"``, ``"CLIMS"`` or ``"CLIP-ES"``.
        what: is scored: ``"maps"``, ``"masks"``, ``"segmenter"``, or a leaderboard's task.
        value: in its ``unit``.
        unit: such as ``"mIoU, percent"``.
        data: the data set.
        split: of it.
        n_images: images that are scored; None where it is not known.
        background: the background rule.
        refinement: what came after the maps, or after the segmenter.
        start: weights that a segmenter began with.
        source: where the number stands.
        note: what else one has to know.
        commands: the kit's own commands that measure it again, in order, with ``{root}``,
            ``{weights}``, ``{out}`` and ``{seed}`` left open; a line that begins with ``#`` is
            only printed.
        cannot: why there are no commands, or None.
    """

    name: str
    method: str
    what: str
    value: float
    unit: str = "mIoU, percent"
    data: str
    split: str
    n_images: int | None = None
    background: str = NOT_STATED
    refinement: str = NOT_STATED
    start: str | None = None
    source: str
    note: str | None = None
    commands: tuple[str, ...] = ()
    cannot: str | None = None

    @property
    def percent(self) -> float | None:
        """The mean IoU in percent; None for another measure."""
        return {"mIoU, percent": self.value, "mIoU, fraction": 100 * self.value}.get(self.unit)

    def __str__(self) -> str:
        """Write the row on one line."""
        images = "" if self.n_images is None else f", {self.n_images} images"
        start = f", starts from {self.start}" if self.start else ""
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.name}: {self.method} {self.what} {self.value:g} ({self.unit}), {self.data} "
            f"{self.split}{images}, background: {self.background}, refinement: {self.refinement}"
            f"{start}{note}; {self.source}"
        )


@cache
def published_rows() -> tuple[Published, ...]:
    """Return all rows, in the order of the papers and then of their leaderboards.

    Example:
        >>> print(next(row for row in published_rows() if row.name == "clip-es/train/crf"))
        clip-es/train/crf: CLIP-ES masks 75 (mIoU, percent), VOC 2012 train, 1464 images, \
background: power 1, refinement: attention affinity, dense CRF (before doubtful pixels become \
255); CLIP-ES, CVPR 2023, Table 2; repository linyq2117/CLIP-ES
    """
    table = published_table()
    rows: dict[str, dict[str, Any]] = {}
    for row in table["rows"]:
        like = rows[row["like"]] if "like" in row else {}
        values = {**like.get("with", {}), **row.get("with", {})}
        rows[row["name"]] = {**like, **row, "with": values}
    return tuple(_published(row, table) for row in rows.values())


@cache
def published_table() -> dict[str, Any]:
    """Read the file of published numbers as it is.

    Returns:
        ``"files"``: weights by name, with where they come from; ``"data"``: what is needed of each
        data set; ``"recipes"``: command lines that rows share; ``"rows"``. A row that is ``"like"``
        an earlier one says only what differs. Its ``"recipe"`` lists recipes by name; ``"with"``
        fills in what their lines leave open, and the last value given counts.
    """
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def _published(row: Mapping[str, Any], table: Mapping[str, Any]) -> Published:
    fields = {k: v for k, v in row.items() if k not in ("like", "recipe", "with")}
    if "recipe" not in row:
        return Published(**fields)
    recipes = [table["recipes"][name] for name in row["recipe"]]
    values = {"row": row["name"], "split": row["split"]}
    for part in (table["data"][row["data"]], *recipes, row):
        values |= part.get("with", {})
    lines = [line for recipe in recipes for line in recipe.get("commands", ())]
    return Published(**fields, commands=tuple(_filled(line, values) for line in lines))


def _filled(line: str, values: Mapping[str, str]) -> str:
    """Replace ``{name}`` in a line where ``values`` has it, also in the values themselves."""
    for _ in range(2):
        line = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), line)
    return " ".join(line.split())


def published(name: str) -> Published:
    """Return one row by its name.

    Raises:
        ValueError: if there is no such row, with the names that are there.
    """
    rows = {row.name: row for row in published_rows()}
    if name not in rows:
        raise ValueError(f"there is no published row {name!r}, expected one of {', '.join(rows)}")
    return rows[name]


def differences(report: Report, row: Published) -> dict[str, tuple[str, str]]:
    """Compare the protocols of a report and of a published row.

    Args:
        report: ours.
        row: theirs.

    Returns:
        Part of the protocol -> (ours, theirs); parts that either does not state are left out, and
        so is the background rule where one of them only says how it was chosen.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate
        >>> masks = {"a": torch.zeros(2, 2).long()}
        >>> protocol = Protocol("VOC 2012", "train", refinement="dense CRF")
        >>> report = evaluate(masks, masks, classes=("cow",), protocol=protocol)
        >>> differences(report, published("clims/train/maps"))
        {'n_images': ('1', '1464'), 'refinement': ('dense CRF', 'none')}
    """
    differing = {}
    for name in ("data", "split", "n_images", "background", "refinement"):
        if getattr(row, name) is None:
            continue
        ours, theirs = str(getattr(report.protocol, name)), str(getattr(row, name))
        mine, other = ours.lower().replace("(1 - max)^", "power "), theirs.lower()
        is_same = mine == other or mine.startswith(f"{other}, chosen")  # how a rule was chosen
        if NOT_STATED not in (ours, theirs) and not is_same:
            differing[name] = ours, theirs
    if report.protocol.scored != "all classes":
        differing["scored"] = report.protocol.scored, "all classes"
    return differing


def beside_published(report: Report, *, method: str, what: str | None = None) -> pd.DataFrame:
    """Tabulate ours beside everything published of a method, and whether the protocols agree.

    Args:
        report: ours.
        method: as in `Published`.
        what: ``"maps"``, ``"masks"`` or ``"segmenter"``; None for all.

    Returns:
        One row each: ``published``, ``ours`` and ``difference`` in percent and points, and
        ``same protocol?``, ``"yes"`` or what differs.

    Raises:
        ValueError: if nothing of that method, or of that kind, is published.
    """
    import pandas as pd

    rows = []
    for row in published_rows():
        if row.method == method and what in (None, row.what) and row.percent is not None:
            apart = differences(report, row).items()
            parts = "; ".join(f"{name}: {ours}, there {theirs}" for name, (ours, theirs) in apart)
            ours = 100 * report.mean_iou
            rows.append((row.name, row.percent, ours, ours - row.percent, parts or "yes"))
    if not rows:
        known = ", ".join(sorted({f"{row.method} {row.what}" for row in published_rows()}))
        raise ValueError(f"nothing is published of method {method!r} and {what!r}; known: {known}")
    columns = ["row", "published", "ours", "difference", "same protocol?"]
    frame = pd.DataFrame(rows, columns=columns).set_index("row")
    frame.attrs["ours"] = f"{percent(report.mean_iou)} % ({report.protocol})"
    return frame
