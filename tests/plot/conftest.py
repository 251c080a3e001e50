"""Samples, maps, masks and reports that the figures are drawn of."""

import numpy as np
import torch

from wsss_kit.classes import PAPER_CLASSES, Sample
from wsss_kit.evaluation import Protocol, Report, evaluate


def make_world(n=2, classes=PAPER_CLASSES, size=(24, 36)):
    """Samples, maps and masks: squares of one or two classes on noise."""
    rng = np.random.default_rng(0)
    samples, cams, masks = [], torch.zeros(n, len(classes), 6, 9), {}
    for index in range(n):
        labels, mask = torch.zeros(len(classes)), torch.zeros(size, dtype=torch.int64)
        for c in range(index, index + 1 + index % 2):
            labels[c], cams[index, c, 1:4, 2:5] = 1, 1
            mask[4 + 8 * (c - index) : 12 + 8 * (c - index), 8:20] = c + 1
        mask[:3, :3] = 255
        image = torch.from_numpy(rng.random((3, *size), np.float32))
        samples.append(Sample(f"val-{index}", image, labels))
        masks[f"val-{index}"] = mask
    return samples, cams, masks


def make_reports(*names, classes=PAPER_CLASSES, shift=1) -> dict[str, Report]:
    """A report for each name, on masks that are shifted by some pixels."""
    _, _, masks = make_world(3, classes)
    protocol = Protocol("squares", "val", background="constant 0.25")
    wrong = {name: mask.roll(shift, 1) % 255 for name, mask in masks.items()}
    return {n: evaluate(wrong, masks, classes=classes, protocol=protocol) for n in names}
