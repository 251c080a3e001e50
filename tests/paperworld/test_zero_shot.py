"""The zero-shot tests: what is asked, and of which images."""

from __future__ import annotations

import pytest
import torch

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.paperworld.measures import HELD_OUT_SEED, image_batch, zero_shot_accuracy
from wsss_kit.paperworld.words import STUFF
from wsss_kit.paperworld.world import page

N = 12


def pages(kind):
    return [page("val", HELD_OUT_SEED, i, 48, 0.0, kind) for i in range(N)]


def right_answers():
    """Test -> (images, answers), from the descriptions."""
    objects = {
        test: [
            (p, PAPER_CLASSES.index(p.scene.classes[0]))
            for p in pages(variant)
            if len(p.scene.classes) == 1
        ]
        for test, variant in (("cutouts", "cutout"), ("out_of_context", "scene"))
    }
    grounds = [
        (p, STUFF.index(p.scene.bands[0].stuff))
        for p in pages("background")
        if len(p.scene.bands) == 1
    ]
    return {**objects, "backgrounds": grounds}


def oracle(wrong=()):
    """Encoders that know each image by its pixels, but for the images given."""
    answers = {}
    for rows in right_answers().values():
        for one, answer in rows:
            answers[image_batch([one]).numpy().tobytes()] = answer

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
