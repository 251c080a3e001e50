"""Background rules: the sweep must say what each rule would score alone."""

import numpy as np
import pytest
import torch

from tests.evaluation.random_masks import scored
from wsss_kit.classes import Sample
from wsss_kit.evaluation import background

RULES = (
    background.BackgroundRule(threshold=0.3),
    background.BackgroundRule(threshold=0.6),
    background.BackgroundRule(power=1),
    background.BackgroundRule(power=4),
)


@pytest.fixture
def data(rng):
    """Images of different sizes whose maps are noise around the truth."""
    samples, maps, target = [], {}, {}
    for i, size in enumerate([(6, 8), (5, 5), (9, 4)]):
        truth = torch.randint(0, 4, size, generator=rng)
        truth[0, 0] = 255
        labels = torch.zeros(3)
        labels[[v - 1 for v in truth.unique().tolist() if 0 < v < 255]] = 1
        noise = torch.rand(3, *size, generator=rng)
        right = torch.stack([(truth == c + 1).float() for c in range(3)])
        image = torch.full((3, *size), i / 10)
        samples.append(Sample(f"image {i}", image, labels))
        maps[f"{i / 10:.1f}"] = (0.5 * noise + 0.4 * right)[None]
        target[f"image {i}"] = truth

    def maps_of(images, labels):
        maps_of.calls += 1
        return maps[f"{images[0, 0, 0, 0].item():.1f}"] * labels[:, :, None, None]

    maps_of.calls = 0
    return samples, target, maps_of


def test_the_sweep_equals_every_rule_alone(data):
    samples, target, maps_of = data
    swept = background.sweep_background(maps_of, samples, target, rules=RULES, shown=False)
    assert maps_of.calls == len(samples)  # maps are made once, not once a rule
    assert list(swept) == list(RULES)
    for rule, result in swept.items():
        predicted = background.predict_masks(maps_of, samples, rule, shown=False)
        assert result == pytest.approx(scored(predicted, target, n_bootstrap=0).mean_iou)
        for sample in samples:
            maps, labels = maps_of(sample.image[None], sample.labels[None]), sample.labels[None]
            assert torch.equal(predicted[sample.name], rule.masks(maps, labels)[0])
    assert len({round(v, 6) for v in swept.values()}) > 1


@pytest.mark.parametrize("batch_size", [1, 16])
def test_refined_scores_are_swept_image_by_image(data, batch_size):
    """All rules of an image come at once, so that a CRF builds its lattice once an image."""
    samples, target, maps_of = data
    samples = samples[:1] + [s._replace(name=f"{s.name} again") for s in samples[:1]] + samples[1:]
    target = {**target, "image 0 again": target["image 0"].flip(0)}
    seen = []

    def refine(scores, images, labels):
        assert len(scores) == len(images) == len(labels)
        seen.append([image.mean().item() for image in images])
        return scores.flip(-1)

    options = {"rules": RULES, "refine": refine, "batch_size": batch_size, "shown": False}
    swept = background.sweep_background(maps_of, samples, target, **options)
    assert seen == [[s.image.mean().item()] * len(RULES) for s in samples]
    for rule, result in swept.items():
        predicted = background.predict_masks(maps_of, samples, rule, refine=refine, shown=False)
        plain = background.predict_masks(maps_of, samples, rule, shown=False)
        for name, mask in predicted.items():
            assert torch.equal(mask, plain[name].flip(-1))
        assert result == pytest.approx(scored(predicted, target, n_bootstrap=0).mean_iou)


def test_by_default_constants_and_powers_are_tried(data):
    samples, target, maps_of = data
    swept = background.sweep_background(maps_of, samples, target, shown=False)
    assert tuple(swept) == background.CONSTANTS + background.POWERS
    assert [rule.threshold for rule in background.CONSTANTS] == pytest.approx(
        np.arange(1, 17) * 0.05
    )


def test_best_rule_is_the_first_of_equals():
    first, second, third = RULES[:3]
    assert background.best_rule({first: 0.2, second: 0.5, third: 0.5}) is second
    assert background.best_rule({third: 0.5, second: 0.5, first: 0.2}) is third


def test_what_cannot_be_swept(data):
    samples, _, maps_of = data
    message = "3 of 3 images have no target mask: image 0, image 1, image 2; give"
    with pytest.raises(ValueError, match=message):
        background.sweep_background(maps_of, samples, {}, shown=False)
    assert not maps_of.calls  # nothing is computed then
    with pytest.raises(ValueError, match="two images are called 'image 0', expected different"):
        background.predict_masks(maps_of, [samples[0]] * 2, RULES[0], shown=False)
    with pytest.raises(ValueError, match="none of 1 rules has an mIoU"):
        background.best_rule({RULES[0]: float("nan")})


def test_the_best_rule_of_one_split_makes_the_masks_of_another(data):
    samples, target, maps_of = data
    chosen = background.choose_rule(
        maps_of, samples[:2], target, samples[2:], rules=RULES, shown=False
    )
    swept = background.sweep_background(maps_of, samples[:2], target, rules=RULES, shown=False)
    assert chosen.swept == swept and chosen.rule == background.best_rule(swept)
    assert chosen.text == f"{chosen.rule}, chosen on 2 val images"
    alone = background.predict_masks(maps_of, samples[2:], chosen.rule, shown=False)
    assert list(chosen.masks) == ["image 2"]
    assert torch.equal(alone["image 2"], chosen.masks["image 2"])
