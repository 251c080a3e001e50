"""SC-CAM's rounds: what is clustered, trained on, shown, kept and refused."""

import copy

import pytest
import torch
from torch.nn import functional as F

from wsss_kit.classes import labels_of
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.sc_cam import PRESETS, SCCAM, class_features, subcategory_labels
from wsss_kit.methods.sc_cam.train import drop, jitter
from wsss_kit.methods.trained import new_head
from wsss_kit.paperworld import PaperWorld

FIT = {"epochs": 2, "batch_size": 4, "progress": False}


def make(start, **options):
    usual = {"preset": "clean", "scales": (1.0,), "n_subcategories": 2, "rounds": 2}
    return SCCAM(start, **{**usual, **options})


# -- heads ----------------------------------------------------------------------------------


def test_new_heads_are_drawn_as_the_preset_says():
    assert PRESETS["reference"]["xavier_heads"] and not PRESETS["clean"]["xavier_heads"]
    largest = (6 / (16 + 96)) ** 0.5
    head, again, other = (new_head(16, 96, seed=s, xavier=True) for s in (3, 3, 4))
    assert torch.equal(head, again) and not torch.equal(head, other)
    assert 0.98 * largest < head.abs().max() <= largest and abs(head.mean()) < 0.02
    assert new_head(16, 96, seed=3, xavier=False).std() == pytest.approx(0.01, rel=0.1)


# -- features and losses --------------------------------------------------------------------


@pytest.mark.parametrize("unit_length", [True, False])
def test_features_are_weighed_means(cam, world, unit_length):
    backbone, head = cam.backbone_, cam.head_.detach()
    options = {"unit_length": unit_length, "shown": False}
    whole = class_features(backbone, head, world, features="picture", **options)
    mine = class_features(backbone, head, world, features="own_map", **options)
    assert whole.shape == (12, 96) and mine.shape == (12, 8, 96)
    for i, sample in enumerate(world):
        with torch.no_grad():
            f = backbone(sample.image[None])[0]  # (D, h, w)
        mean = f.mean((1, 2))
        mean = mean / mean.norm() if unit_length else mean
        torch.testing.assert_close(whole[i], mean, atol=1e-5, rtol=1e-4)
        for c in range(8):
            weights = torch.einsum("dhw,d->hw", f, head[c]).clamp_min(0) * sample.labels[c]
            expected = (weights * f).sum((1, 2)) / weights.sum().clamp_min(1e-6)
            if unit_length and expected.norm() > 0:
                expected = expected / expected.norm()
            torch.testing.assert_close(mine[i, c], expected, atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="features is 'map', expected one of picture, own_map"):
        class_features(backbone, head, world, features="map")


def test_dropout_and_jitter(rng):
    image, amounts = torch.rand(3, 6, 6, generator=rng), (0.3, 0.3, 0.3, 0.1)
    one, again, other = (
        jitter(image, torch.Generator().manual_seed(seed), amounts=amounts) for seed in (1, 1, 2)
    )
    none = jitter(image, rng, amounts=(0,) * 4)
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, image)
    assert 0 <= one.min() and one.max() <= 1
    torch.testing.assert_close(none, image, atol=1e-3, rtol=0)
    pooled = torch.ones(400, 50)
    torch.manual_seed(3)
    kept = drop(pooled, 0.5)
    assert set(kept.unique().tolist()) == {0.0, 2.0} and kept.mean() == pytest.approx(1, abs=0.03)
    assert drop(pooled, 0.0) is pooled


# -- rounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [True, False])
def test_rounds_cluster_what_the_last_network_sees(cam, world, monkeypatch, restart):
    """And begin where the first did, with the CAM, or where the last one ended."""
    seen, begun = {}, []

    begin_round = SCCAM._begin_round

    def begin(method, *arguments):
        begin_round(method, *arguments)
        state = copy.deepcopy(method.backbone_.state_dict())
        begun.append((method.head_.detach().clone(), state))

    monkeypatch.setattr(SCCAM, "_begin_round", begin)
    method = make(cam, restart_each_round=restart).fit(
        world, **FIT, on_round=lambda n, m: seen.update({n: copy.deepcopy(m)})
    )
    assert list(seen) == [1, 2] and len(method.rounds_) == 2 and len(method.losses_) == 4
    for before, labels in zip((cam, seen[1]), method.rounds_, strict=True):
        options = {"features": "own_map", "unit_length": True, "shown": False}
        features = class_features(before.backbone_, before.head_.detach(), world, **options)
        expected = subcategory_labels(features, labels_of(world), k=2, engine="torch")
        assert torch.equal(expected, labels)
    assert torch.equal(method.subcategories_, method.rounds_[-1])
    for (head, backbone), start in zip(begun, (cam, cam if restart else seen[1]), strict=True):
        assert torch.equal(head, start.head_)
        torch.testing.assert_close(backbone, start.backbone_.state_dict(), atol=0, rtol=0)
    assert not torch.equal(seen[1].head_, cam.head_)


def test_the_published_rounds_begin_with_the_backbone_before_any_classifier(world):
    """With a step that changes nothing, backbone and head are those of the beginning."""
    backbone = CAM("paper", weights="web", device="cpu")
    backbone.build(PaperWorld.classes, 0)
    pristine = copy.deepcopy(backbone.backbone_.state_dict())
    fitted = CAM("paper", weights="web", preset="clean", device="cpu").fit(
        world, epochs=1, batch_size=4, progress=False
    )
    still = {**FIT, "epochs": 1, "learning_rate": 1e-12}
    for preset, start, same in (
        ("reference", fitted, pristine),
        ("clean", fitted, fitted.backbone_.state_dict()),
        ("reference", "paper", pristine),
        ("clean", "paper", pristine),  # a head alone was trained before the rounds
    ):
        options = {"weights": "web", "device": "cpu"} if start == "paper" else {}
        settings = {"baseline": {"epochs": 1, "batch_size": 4}} if start == "paper" else {}
        method = make(start, preset=preset, rounds=1, **options).fit(world, **still, **settings)
        for name, value in method.backbone_.named_parameters():
            torch.testing.assert_close(value.detach(), same[name], atol=1e-6, rtol=0)
        assert torch.allclose(method.head_, fitted.head_, atol=1e-6) is (same is not pristine)
    mine = CAM(fitted.backbone_, preset="clean")
    mine.build(fitted.classes_, 0)
    with pytest.raises(ValueError, match=r"no longer has; give the module itself"):
        make(mine, preset="reference").fit(world, **FIT)


def test_the_read_outs(cam, world, batch):
    """Children: of each class the largest of its rows' maps, before scaling."""
    method = make(cam, rounds=1).fit(world, **FIT)
    images, labels = batch
    children = method(images, labels).cams
    method.read_out = "parent"
    parent = method(images, labels).cams
    with torch.no_grad():
        views = [images, images.flip(-1)]
        for head, result in ((method.head_, parent), (method.sub_head_, children)):
            maps = [torch.einsum("bdhw,cd->bchw", method.backbone_(v), head).relu() for v in views]
            total = F.interpolate(maps[0] + maps[1].flip(-1), (8, 8), mode="bilinear")
            total = total.view(12, 8, -1, 8, 8).amax(2) * labels[:, :, None, None]
            expected = total / (total.amax((2, 3), keepdim=True) + 1e-5)
            torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(parent, children, atol=0.05)


def test_a_weight_of_zero_is_a_control(cam, world):
    """The parent learns as if there were no sub-categories, whatever they are."""
    clustered = make(cam, rounds=1, subcategory_weight=0.0).fit(world, **FIT)
    others = torch.stack([labels_of(world), torch.zeros(12, 8)], 2).view(12, 16)
    given = make(cam, rounds=1, subcategory_weight=0.0).fit(world, **FIT, subcategories=others)
    assert torch.equal(clustered.head_, given.head_)
    weighted = make(cam, rounds=1).fit(world, **FIT, subcategories=others)
    assert not torch.equal(weighted.head_, given.head_)


def test_known_subcategories_may_have_a_number_of_their_own(cam, world):
    known = torch.zeros(12, 8, 3)
    known[:, :, 1] = labels_of(world)
    method = make(cam).fit(world, **FIT, subcategories=known.view(12, 24))
    assert len(method.rounds_) == 1 and method.sub_head_.shape == (24, 96)
    for options, message in (
        ({"subcategories": known[:, :7, 1]}, r"shape \(12, 7\), expected \(12, 8 \* k\)"),
        ({"subcategories": known.view(12, 24) * 2}, "something else than 0 and 1"),
        ({"subcategories": torch.ones(12, 24)}, "whose class is not present"),
        ({"epochs": [1, 2, 3]}, "epochs has 3 numbers for 2 rounds"),
    ):
        with pytest.raises(ValueError, match=message):
            make(cam).fit(world, **{**FIT, **options})
