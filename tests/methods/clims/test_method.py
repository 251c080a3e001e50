"""CLIMS's training: against a literal version, from a CAM, resumed, and what it refuses."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.engine import Diverged
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS, PRESETS
from wsss_kit.methods.clims.losses import Judge
from wsss_kit.methods.clims.method import calibrate, check_maps
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
FIT = {"epochs": 2, "batch_size": 4, "progress": False}


@pytest.fixture(scope="module")
def world():
    return PaperWorld(8, split="train", size=32)


@pytest.fixture(scope="module")
def cam(world):
    created = CAM("paper", weights="web", preset="clean", scales=(1.0,), device="cpu")
    created.fit(world, epochs=8, batch_size=4, learning_rate=0.05, progress=False)
    images, labels = (torch.stack([s[k] for s in world]) for k in (1, 2))
    assert created(images, labels).cams.amax((1, 2, 3))[0] > 0.99  # maps that can be compared
    return created


def make(clip, start, **options):
    usual = {"prompts": Prompts.paper(method="clims"), "preset": "clean", "scales": (1.0,)}
    return CLIMS(clip, start, **{**usual, **options})


# -- one step -------------------------------------------------------------------------------


def averaged(clip, prompts, phrase):
    message = clip.encode_text([template.replace("{}", phrase) for template in prompts.templates])
    return F.normalize(message.mean(0), dim=0)


def literal_losses(clip, prompts, choices, images, maps, labels):
    """The four losses pair by pair and text by text, as the papers' codes do it."""
    mean, std = IMAGENET if choices["pixels"] == "imagenet" else (clip.mean, clip.std)
    otm, btm, cbs, areas = [], [], 0.0, []
    for n in range(len(images)):
        for c, name in enumerate(prompts.classes):
            areas += [] if choices["area"] == "present" else [maps[n, c].mean()]
            if not labels[n, c]:
                continue
            areas += [maps[n, c].mean()] if choices["area"] == "present" else []
            options = {"mode": "bilinear", "align_corners": choices["align_corners"]}
            size = (choices["side"],) * 2 if choices["side"] else images.shape[2:]
            x, p = images[n : n + 1], F.interpolate(maps[n : n + 1, c : c + 1], size, **options)
            if choices["pixels"] == "rgb":
                x = F.interpolate(x, size, **options)
                seen = [clip.encode_image(each) for each in (x * p, x * (1 - p))]
            else:
                x = F.interpolate((x - mean.view(3, 1, 1)) / std.view(3, 1, 1), size, **options)
                seen = [clip.encode_image(y, normalised=True) for y in (x * p, x * (1 - p))]
            shown, left = (F.normalize(each, dim=-1)[0] for each in seen)
            text = averaged(clip, prompts, prompts.phrases[c])
            heavy = choices["heavy_classes"].get(name, 1.0)
            otm.append(-heavy * (shown @ text).clamp(1e-4, 0.9999).log())
            btm.append(-heavy * (1 - (left @ text).clamp(1e-4, 0.9999)).log())
            words = prompts.backgrounds_of(name)
            for word in words:
                cosine = shown @ averaged(clip, prompts, word)
                if choices["cbs_threshold"] is None or cosine > choices["cbs_threshold"]:
                    share = 1 / len(words) if choices["backgrounds"] == "texts" else 1.0
                    cbs = cbs - share * (1 - cosine).log()
    if choices["backgrounds"] == "pairs":
        cbs = cbs / max(1, len(otm))
    zero = torch.zeros(())
    return {
        "otm": torch.stack(otm).mean() if otm else zero,
        "btm": torch.stack(btm).mean() if btm else zero,
        "cbs": torch.as_tensor(cbs),
        "reg": torch.stack(areas).mean(),
    }


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("own", [True, False], ids=["backgrounds of a class", "for all"])
def test_the_losses_equal_a_literal_version(clip, rng, preset, own):
    choices = {**PRESETS[preset], "heavy_classes": {"cow": 3.0}}
    choices["side"] = choices["side"] and 96
    prompts = Prompts.paper(method="clims")
    prompts = prompts if own else prompts.replace(class_backgrounds={}, backgrounds=["sky", "fog"])
    labels = torch.zeros(2, len(PAPER_CLASSES))
    labels[0, 3] = labels[1, 0] = labels[1, 3] = 1
    images = torch.rand(2, 3, 96, 96, generator=rng)
    maps = torch.rand(*labels.shape, 12, 12, generator=rng)
    result = Judge(clip, prompts, choices).losses(images, maps, labels)
    expected = literal_losses(clip, prompts, choices, images, maps, labels)
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, atol=1e-4, rtol=1e-4, msg=name)


def test_maps_can_be_looked_at_after_every_epoch(clip, cam, world):
    """And looking changes nothing, statistics of batch normalisation included."""
    images, labels = (torch.stack([s[k] for s in world]) for k in (1, 2))
    seen = {}
    looked = make(clip, cam).fit(
        world, **FIT, on_epoch=lambda epoch, m: seen.update({epoch: m(images, labels).cams})
    )
    blind = make(clip, cam).fit(world, **FIT)
    assert list(seen) == [1, 2]
    assert torch.equal(seen[2], looked(images, labels).cams)
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(looked.head_, blind.head_)
    for name, value in blind.backbone_.state_dict().items():
        assert torch.equal(value, looked.backbone_.state_dict()[name]), name


# -- beginnings and ends --------------------------------------------------------------------


def test_it_starts_from_a_copy_of_a_fitted_cam(clip, cam, world):
    before = {name: value.clone() for name, value in cam.backbone_.state_dict().items()}
    head = cam.head_.detach().clone()
    clims = make(clip, cam).fit(world, **FIT)
    assert torch.equal(cam.head_, head) and not torch.equal(clims.head_, head)
    assert all(torch.equal(v, before[k]) for k, v in cam.backbone_.state_dict().items())
    moved = {k for k, v in clims.backbone_.state_dict().items() if not torch.equal(v, before[k])}
    assert any(name.startswith("stem") for name in moved)  # preset clean: and no statistics
    assert not any("running" in name for name in moved)
    rate = 1e-9  # with hardly a step the maps are the CAM's, but for the calibration's scale
    still = make(clip, cam).fit(world, **FIT, learning_rate=rate)
    images, labels = world[0].image[None], world[0].labels[None]
    result, expected = (m(images, labels).cams for m in (still, cam))
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


def test_each_loss_that_is_joined_changes_the_head(clip, cam, world):
    alone = {"btm": 0.0, "reg": 0.0, "cbs": 0.0}
    weights = (alone, {"reg": 0.0, "cbs": 0.0}, {"cbs": 0.0}, {})
    heads = [make(clip, cam, **off).fit(world, **FIT).head_ for off in weights]
    assert all(not torch.equal(one, other) for one, other in pairwise(heads))


@pytest.mark.parametrize("positives", [0, 8])
def test_a_batch_of_no_or_all_positives_and_a_clip_that_stays(clip, cam, rng, positives):
    labels = torch.zeros(2, 8)
    labels[0, :positives] = 1
    method = make(clip, cam)
    method.build(cam.classes_, 0)
    result = method.loss(torch.rand(2, 3, 32, 32, generator=rng), labels)
    result["total"].backward()
    result = {name: value.item() for name, value in result.items()}
    assert all(math.isfinite(value) for value in result.values())
    if not positives:
        assert result["otm"] == result["btm"] == result["cbs"] == 0 < result["reg"]
    assert method.head_.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in clip.parameters())


def test_the_calibration_puts_a_usual_maximum_where_the_sigmoid_has_a_slope(cam, world):
    method = make(None, cam)
    method.build(cam.classes_, 0)
    method.eval().requires_grad_(False)
    backbone, head, bias = method.backbone_, method.head_, method.bias_
    calibrate(backbone, head, bias, world)
    for c in range(8):
        shown = [s for s in world if s.labels[c]]
        if not shown:
            continue
        maps = [backbone(s.image[None]) for s in shown]
        peaks = [(torch.einsum("bdhw,d->bhw", m, head[c]) + bias[c]).amax().item() for m in maps]
        usual = torch.tensor(peaks).median().item()
        assert usual == pytest.approx(2.0, abs=1e-3) or usual <= -3


def test_a_checkpoint_of_another_run_is_refused(clip, cam, world, tmp_path):
    make(clip, cam).fit(world, **FIT, checkpoint=tmp_path / "run")
    other = copy.deepcopy(cam)
    other.head_.data += 0.01
    for start, options, fit, message in (
        (cam, {}, {"seed": 1}, "of a run with seed"),
        (cam, {"otm": 1.0}, {}, "of a run with otm"),
        (other, {}, {}, "of a run with start"),
        (cam, {}, {"epochs": 1}, r"has done 2 epochs .* steps are asked for"),
    ):
        method = make(clip, start, **options)
        with pytest.raises(ValueError, match=message):
            method.fit(world, **{**FIT, **fit}, checkpoint=tmp_path / "run")


# -- what is refused ------------------------------------------------------------------------


def test_what_does_not_go_together(clip, cam, world):
    three = Prompts(["cow", "bus", "cat"], ["sky"], template="a {}")
    paper = Prompts.paper(method="clims")
    mirrored = paper.replace(classes=paper.classes[::-1])
    for start, options, fit, message in (
        (cam, {}, {"baseline": {"epochs": 1}}, "give one of the two"),
        ("paper", {}, {"baseline": {"momentum": 1}}, "baseline names momentum"),
        (cam, {"prompts": three}, {}, r"samples have 8 classes .* prompts 3"),
        (cam, {"prompts": mirrored}, {}, "same in the same order"),
        (cam, {"prompts": ["cow"]}, {}, "prompts is list, expected Prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            make(clip, start, **options).fit(world, **FIT, **fit)
    for none, start, message in (
        (clip, CAM("paper"), "is not fitted; call its fit"),
        (None, cam, "no CLIP to learn from"),
    ):
        with pytest.raises(RuntimeError, match=message):
            make(none, start).fit(world, **FIT)


def test_maps_that_say_nothing_stop_the_training(clip, cam, world):
    with pytest.raises(Diverged, match=r"maps of the classes present average 0\.00"):
        make(clip, cam, reg=1e4).fit(world, **{**FIT, "epochs": 60}, learning_rate=0.3)
    with pytest.raises(Diverged, match="diverged in epoch 1: the maps"):
        check_maps(0.998, "epoch 1")
