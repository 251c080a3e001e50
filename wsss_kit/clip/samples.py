"""What a CLIP and its prompts make of a data set's pictures and labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wsss_kit.checks import check_image, check_samples
from wsss_kit.classes import Sample
from wsss_kit.clip.frozen import FrozenCLIP
from wsss_kit.prompts import Prompts
from wsss_kit.training import labels_of, progress


def labels_for(samples: Sequence[Sample], prompts: Prompts) -> Tensor:
    """(M, C) labels of samples that are of the prompts' classes.

    Raises:
        ValueError: if there are no samples, or labels and classes differ in number.
    """
    check_samples(samples)
    labels = labels_of(samples)
    if labels.shape[1] != len(prompts.classes):
        raise ValueError(
            f"the samples have {labels.shape[1]} labels and the prompts {len(prompts.classes)} "
            "classes; expected one label a class"
        )
    return labels


@torch.no_grad()
def embedded(clip: FrozenCLIP, samples: Sequence[Sample], *, what: str, shown: bool) -> Tensor:
    """Unit embeddings of pictures, one by one, for they may differ in size: (M, E) on the CPU.

    Args:
        clip: the model.
        samples: M pictures.
        what: name of the bar.
        shown: whether to show it.

    Raises:
        ValueError: if a picture is none; the message names it.
    """
    rows = []
    for sample in progress(samples, what=what, shown=shown, total=len(samples)):
        check_image(sample.image, f"picture {sample.name!r}")
        rows.append(F.normalize(clip.encode_image(sample.image[None]), dim=-1)[0].cpu())
    return torch.stack(rows)
