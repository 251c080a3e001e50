"""Pictures by name, read when they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from wsss_kit.checks import check_samples
from wsss_kit.classes import Sample

_MOST_KEPT = 16


class Pictures(Mapping[str, Sample]):
    """Samples by their names, those without any label left out; the last few read are kept.

    Args:
        samples: pictures with image-level labels. Where labels are known without decoding, as in
            `LazySamples`, none is decoded before it is asked for.

    Attributes:
        labels: name to (C,) of 0 and 1.

    Example:
        >>> from wsss_kit.paperworld import PaperWorld
        >>> pictures = Pictures(PaperWorld(2))
        >>> list(pictures), pictures["val_0_000001"].name
        (['val_0_000000', 'val_0_000001'], 'val_0_000001')
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        check_samples(samples)
        self._samples = samples
        labels_of = getattr(samples, "image_labels", None)
        if labels_of is not None:
            known = list(zip(samples.names, labels_of(), strict=True))
        else:
            known = [(sample.name, sample.labels) for sample in samples]
        self._places = {name: i for i, (name, labels) in enumerate(known) if labels.any()}
        self.labels = {name: labels for name, labels in known if labels.any()}
        self._read: OrderedDict[str, Sample] = OrderedDict()

    def __getitem__(self, name: str) -> Sample:
        if name not in self._read:
            self._read[name] = self._samples[self._places[name]]
            if len(self._read) > _MOST_KEPT:
                self._read.popitem(last=False)
        self._read.move_to_end(name)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
