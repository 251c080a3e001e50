"""The zero-shot tests: what is asked, and of which images."""

from itertools import chain

import pytest
import torch

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld import page
from wsss_kit.paperworld.tiny_clip import HELD_OUT_SEED, image_batch, zero_shot_accuracy
from wsss_kit.paperworld.words import STUFF

N = 12


def right_answers():
    """Test -> (image, answer) of each of its images, from the descriptions."""
    result = {"cutouts": [], "out_of_context": [], "backgrounds": []}
    for test, kind in zip(result, ("cutout", "scene", "background"), strict=True):
        for one in (page("val", HELD_OUT_SEED, i, 48, 0.0, kind) for i in range(N)):
            if kind == "background" and len(one.scene.bands) == 1:
                result[test].append((one, STUFF.index(one.scene.bands[0].stuff)))
            elif len(one.scene.classes) == 1:
                result[test].append((one, PAPER_CLASSES.index(one.scene.classes[0])))
    return result


def oracle(wrong=()):
    """Encoders that know each image by its pixels, but for the images given."""
    rows = chain.from_iterable(right_answers().values())
    answers = {image_batch([one]).numpy().tobytes(): answer for one, answer in rows}

    def encode_image(images):
        codes = [answers[image[None].numpy().tobytes()] for image in images]
        shifted = [code + 1 if k in wrong else code for k, code in enumerate(codes)]
        return 3.0 * torch.eye(20)[shifted]

    def encode_text(texts):
        encode_text.asked.append(texts)
        return 7.0 * torch.eye(20)[: len(texts)]

    encode_text.asked = []
    return encode_image, encode_text


def test_each_mistake_costs_its_share():
    encode_image, encode_text = oracle(wrong=(0, 1))
    result = zero_shot_accuracy(encode_image, encode_text, n=N, size=48)
    classes, kinds = encode_text.asked
    assert classes == [f"a photo of a {name}" for name in PAPER_CLASSES]
    assert kinds == [f"a photo of {kind}" for kind in STUFF]
    for test, rows in right_answers().items():
        assert 2 < len(rows) <= N
        assert result[test] == pytest.approx(1 - 2 / len(rows))
