"""The numbers of the papers and of their code as data, and why a number of ours is another one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsss_kit.evaluation.confusion import ERROR_KINDS, mean_of
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


def written_differences(report: Report, row: Published) -> str:
    """Write the `differences` in words; nothing where there is none."""
    apart = differences(report, row).items()
    return "; ".join(f"{name}: {ours}, there {theirs}" for name, (ours, theirs) in apart)


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
            ours, apart = 100 * report.mean_iou, written_differences(report, row) or "yes"
            rows.append((row.name, row.percent, ours, ours - row.percent, apart))
    if not rows:
        known = ", ".join(sorted({f"{row.method} {row.what}" for row in published_rows()}))
        raise ValueError(f"nothing is published of method {method!r} and {what!r}; known: {known}")
    columns = ["row", "published", "ours", "difference", "same protocol?"]
    frame = pd.DataFrame(rows, columns=columns).set_index("row")
    frame.attrs["ours"] = f"{percent(report.mean_iou)} % ({report.protocol})"
    return frame


VOC_LONGEST_SIDE = 500  # pixels: one side of nearly all VOC images has as many, none has more


@dataclass(frozen=True)
class Gap:
    """The distance to a published number, and what may explain it.

    Args:
        ours: mean IoU in percent.
        row: the published number, a mean IoU.
        reasons: in a word or two -> the evidence and what to do; most telling first, and empty if
            there is no usual reason.
    """

    ours: float
    row: Published
    reasons: Mapping[str, str]

    @property
    def points(self) -> float:
        """Ours minus theirs, in percent."""
        assert self.row.percent is not None  # see `explain_gap`
        return self.ours - self.row.percent

    def __str__(self) -> str:
        """Write the gap in a sentence, then a reason a line."""
        head = f"{self.ours:.1f} where {self.row.value:g} is published, {self.points:+.1f} points:"
        if not self.reasons:
            return f"{head} no usual reason was found. Compare line by line: {self.row}"
        return "\n".join([head, *(f"- {name}: {text}" for name, text in self.reasons.items())])

    __repr__ = __str__


def explain_gap(report: Report, row: Published) -> Gap:
    """Look for the usual reasons why a number differs from a published one.

    Users of the released codes asked about each of them: another split, a map that was scored at
    its own low resolution, a refinement left out, pixels of 255 in the prediction, or ground truth
    that was resized.

    Args:
        report: ours.
        row: from `published`.

    Returns:
        A `Gap`; print it.

    Raises:
        ValueError: if the row is no mean IoU.

    Example:
        >>> import torch
        >>> from wsss_kit.evaluation import Protocol, evaluate, published
        >>> masks = {"a": torch.zeros(300, 500).long()}
        >>> protocol = Protocol("VOC 2012", "train_aug", refinement="none")
        >>> report = evaluate(masks, masks, classes=("cow",), protocol=protocol)
        >>> gap = explain_gap(report, published("clip-es/train/crf"))
        >>> list(gap.reasons)
        ['wrong split', 'refinement left out', 'few images']
    """
    if (theirs := row.percent) is None:
        raise ValueError(f"{row.name} is {row.unit}, expected a row of mean IoU")
    return Gap(100 * report.mean_iou, row, _reasons(report, row, theirs))


def _reasons(report: Report, row: Published, theirs: float) -> dict[str, str]:
    """Return what explains the gap, name to sentence, the most telling first."""
    protocol, apart, reasons = report.protocol, differences(report, row), {}
    if "data" in apart or "split" in apart:
        scored, published = f"{protocol.data} {protocol.split}", f"{row.data} {row.split}"
        reasons["wrong split"] = f"{scored} was scored, the published number is of {published}"
        if (protocol.split, row.split) == ("train_aug", "train"):
            reasons["wrong split"] += "; train_aug gives CLIP-ES 68.7 instead of 75.0"
    if protocol.stride > 1:
        advice = "bring maps to the image's size before they become masks (58.6 became 50 once)"
        reasons["low resolution"] = f"masks were compared at stride {protocol.stride}; {advice}"
    sizes = report.settings.get("sizes", ())
    longest = max((max(size) for size in sizes), default=VOC_LONGEST_SIDE)
    is_usual = longest <= VOC_LONGEST_SIDE and (len(sizes) != 1 or longest > 400)
    if row.data.startswith("VOC") and not is_usual:
        shown = ", ".join("x".join(map(str, size)) for size in sizes[:3])
        here = f"the ground truth has {len(sizes)} size{'s' * (len(sizes) != 1)} ({shown})"
        there = f"VOC's own masks have many, with {VOC_LONGEST_SIDE} pixels on the longer side"
        reasons["resized ground truth"] = f"{here}, and {there}: resize predictions instead"
    share = protocol.predicted_255
    if share >= 0.001:
        predicted = f"{100 * share:.1f} % of the scored pixels are predicted 255"
        advice = "which counts as background; give the recipe min_confidence=None"
        reasons["predicted 255"] = f"{predicted}, {advice}"
    if "refinement" in apart:
        ours, there = apart["refinement"]
        steps, needed = (set(stated.lower().split(", ")) for stated in (ours, there))
        name = "refinement left out" if needed - steps - {"none"} else "another refinement"
        reasons[name] = f"ours says {ours!r}, the published number comes after {there!r}"
    if "scored" in apart:
        reasons["other classes"] = f"scored were {apart['scored'][0]}, published are all classes"
    objects = report.iou[1:][np.isfinite(report.iou[1:])]
    kinds = mean_of(report.error_shares[1:].T)
    if len(objects) and objects.mean() <= 0.1 and ERROR_KINDS[kinds.argmax()] == "missed":
        what = f"objects have a mean IoU of {100 * objects.mean():.1f} and are missed everywhere"
        causes = "a background rule that is too strong, empty maps, or a segmenter that learned"
        reasons["only background"] = f'{what}: {causes} background alone (try loss="balanced")'
    precision, recall = mean_of(report.precision[1:]), mean_of(report.recall[1:])
    if recall >= 0.1 and abs(precision - recall) >= 0.2:  # both are numbers
        name, advice = ("strong", "lower") if recall < precision else ("weak", "raise")
        rates = f"a precision of {100 * precision:.0f} and a recall of {100 * recall:.0f}"
        advice += " the background, as chosen on a validation split"
        reasons[f"background too {name}"] = f"objects have {rates}: {advice}"
    if "background" in apart:
        reasons["background rule"] = "ours is {}, theirs {}".format(*apart["background"])
    if protocol.n_images and row.n_images and protocol.n_images <= 0.9 * row.n_images:
        low, high = (100 * bound for bound in report.interval)
        place = "inside" if low <= theirs <= high else "outside"
        there = f"the published number lies {place} the interval of ours, {low:.1f} to {high:.1f}"
        counts = f"{protocol.n_images} of {row.n_images} images were scored"
        reasons["few images"] = f"{counts}; {there}"
    return reasons
