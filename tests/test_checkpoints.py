"""Going on where a training stopped, and with no other training's checkpoint."""

import torch

from wsss_kit.checkpoints import fingerprint
from wsss_kit.classes import Sample


def test_a_fingerprint_is_of_names_order_labels_and_the_first_image():
    def made(**changes):
        samples = [Sample(n, torch.full((3, 2, 2), 0.1), torch.tensor([1.0, 0.0])) for n in "ab"]
        samples[1] = samples[1]._replace(**changes)
        return samples

    plain = fingerprint(made())
    assert plain == fingerprint(made()) and len(plain) == 16
    others = [made(name="c"), made(labels=torch.tensor([0.0, 1.0])), made()[::-1], made()[:1]]
    others.append(made(image=torch.zeros(3, 2, 2))[::-1])
    assert len({plain, *map(fingerprint, others)}) == 6
