"""Why a number is not the published one: the usual reasons, read from protocol and figures."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wsss_kit.evaluation.confusion import ERROR_KINDS, mean_of
from wsss_kit.evaluation.published_numbers import Published, differences
from wsss_kit.evaluation.report import Report
from wsss_kit.prompts import Prompts

VOC_LONGEST_SIDE = 500  # pixels: one side of nearly all VOC images has as many, none has more


class Reason(NamedTuple):
    """One reason for a gap.

    Args:
        name: in a word or two, such as ``"wrong split"``.
        sentence: the evidence, and what to do.
    """

    name: str
    sentence: str


@dataclass(frozen=True)
class Gap:
    """The distance to a published number, and what may explain it.

    Args:
        ours: mean IoU in percent.
        row: the published number, a mean IoU.
        reasons: most telling first; empty if there is no usual reason.
    """

    ours: float
    row: Published
    reasons: tuple[Reason, ...]

    @property
    def points(self) -> float:
        """Ours minus theirs, in percent."""
        return self.ours - self.row.percent

    def __str__(self) -> str:
        """Write the gap in a sentence, then a reason a line."""
        head = f"{self.ours:.1f} where {self.row.value:g} is published, {self.points:+.1f} points:"
        if not self.reasons:
            return f"{head} no usual reason was found. Compare line by line: {self.row}"
        return "\n".join([head, *(f"- {each.name}: {each.sentence}" for each in self.reasons)])

    __repr__ = __str__


def explain_gap(report: Report, row: Published, *, prompts: Prompts | None = None) -> Gap:
    """Look for the usual reasons why a number differs from a published one.

    Users of the released codes asked about each of them: another split, a map that was scored at
    its own low resolution, a refinement left out, no background prompts, pixels of 255 in the
    prediction, ground truth that was resized.

    Args:
        report: ours.
        row: from `published`.
        prompts: of the method, if it has some: with few background prompts CLIP-ES has little to
            compare a single class with.

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
        >>> [reason.name for reason in gap.reasons]
        ['wrong split', 'refinement left out', 'few images']
    """
    if row.percent is None:
        raise ValueError(f"{row.name} is {row.unit}, expected a row of mean IoU")
    reasons = tuple(Reason(*each) for each in _reasons(report, row, prompts).items())
    return Gap(100 * report.mean_iou, row, reasons)


def _reasons(report: Report, row: Published, prompts: Prompts | None) -> dict[str, str]:
    """Return what explains the gap, name to sentence, the most telling first."""
    protocol, apart, reasons = report.protocol, differences(report, row), {}
    words = [] if prompts is None else _background_prompts(row)
    missing = [word for word in words if word not in prompts.backgrounds]
    if missing and len(missing) >= len(words) / 2:
        what = f"{len(missing)} of the {len(words)} published background words are not among the"
        advice = "a class is compared with them; CLIP-ES without any has 29.5 instead of 70.8"
        reasons["background words missing"] = f"{what} prompts, such as {missing[:3]}: {advice}"
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
    share = report.settings.get("predicted_255", 0.0)
    if share >= 0.001:
        predicted = f"{100 * share:.1f} % of the scored pixels are predicted 255"
        advice = "which counts as background; give the recipe min_confidence=None"
        reasons["predicted 255"] = f"{predicted}, {advice}"
    if "refinement" in apart:
        ours, theirs = apart["refinement"]
        steps, needed = (set(stated.lower().split(", ")) for stated in (ours, theirs))
        name = "refinement left out" if needed - steps - {"none"} else "another refinement"
        reasons[name] = f"ours says {ours!r}, the published number comes after {theirs!r}"
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
    if "n_images" in apart and protocol.n_images <= 0.9 * row.n_images:
        low, high = (100 * bound for bound in report.interval)
        place = "inside" if low <= row.percent <= high else "outside"
        there = f"the published number lies {place} the interval of ours, {low:.1f} to {high:.1f}"
        counts = f"{protocol.n_images} of {row.n_images} images were scored"
        reasons["few images"] = f"{counts}; {there}"
    return reasons


def _background_prompts(row: Published) -> tuple[str, ...]:
    """Return the background prompts of a published row; none if its method has no prompts."""
    method = {"CLIP-ES": "clip_es", "CLIMS": "clims"}.get(row.method)
    make = {"VOC": Prompts.voc, "COCO": Prompts.coco}.get(row.data.split()[0])
    return make(method=method).backgrounds if method and make else ()
