"""Backgrounds that come with a class: on images whose homes are known, and by hand."""

import pytest
import torch

from wsss_kit.classes import PAPER_CLASSES, Sample
from wsss_kit.clip import FrozenCLIP
from wsss_kit.methods.clims import propose_backgrounds
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.words import HOME
from wsss_kit.prompts import Prompts


def test_the_homes_are_found_and_nothing_else_comes_first(clip):
    world, prompts = PaperWorld(150, split="train"), Prompts.paper(method="clims")
    result = propose_backgrounds(clip, world, prompts, shown=False)
    assert {name: next(iter(words)) for name, words in result.items()} == HOME
    chosen = prompts.replace(class_backgrounds={c: list(words) for c, words in result.items()})
    assert all(HOME[name] in chosen.backgrounds_of(name) for name in PAPER_CLASSES)


class Fake:
    """A CLIP that sees in an image what its first pixels say."""

    logit_scale = torch.tensor(10.0)
    encode_samples = FrozenCLIP.encode_samples

    def encode_text(self, texts):
        assert texts == ["a photo of sea", "a photo of sky", "a photo of fog"]
        return torch.eye(len(texts))

    def encode_image(self, images):
        return images[:, 0, 0, :3]


def test_the_lift_is_a_difference_of_means():
    prompts = Prompts(["dog", "cat"], ["sea", "sky", "fog"], template="a {}")
    seen = torch.eye(3)[[0, 0, 1, 2, 2]]
    labels = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 0], [0, 0]])
    samples = []
    for row, (colour, label) in enumerate(zip(seen, labels, strict=True)):
        image = torch.zeros(3, 2, 4)
        image[0, 0, :3] = colour
        samples.append(Sample(str(row), image, label))
    p = (10 * seen).softmax(1)
    lift = p[:3].mean(0) - p[3:].mean(0)
    result = propose_backgrounds(Fake(), samples, prompts, least=0.0, shown=False)
    assert result["dog"] == {
        "sea": pytest.approx(lift[0].item(), abs=1e-3),
        "sky": pytest.approx(lift[1].item(), abs=1e-3),
    }
    assert list(result["dog"]) == ["sea", "sky"]  # fog is more common without a dog
    assert result["cat"] == {}  # no image shows one
    for limit in ({"most": 1}, {"least": 0.5}):
        fewer = propose_backgrounds(Fake(), samples, prompts, shown=False, **limit)
        assert list(fewer["dog"]) == ["sea"]


def test_classes_of_other_samples_are_refused(clip):
    three = Prompts(["cow", "bus", "cat"], ["sky"], template="a {}")
    with pytest.raises(ValueError, match="samples have 8 labels and the prompts 3 classes"):
        propose_backgrounds(clip, PaperWorld(2), three, shown=False)
