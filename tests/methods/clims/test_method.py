"""CLIMS's training: against a literal version, from a CAM, resumed, and what it refuses."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from wsss_kit.classes import PAPER_CLASSES
from wsss_kit.engine import Diverged
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS, PRESETS, calibrate, check_maps
from wsss_kit.methods.clims.losses import Judge
from wsss_kit.prompts import Prompts

FIT = {"epochs": 2, "batch_size": 4, "progress": False}


def make(clip, start, **options):
    usual = {"prompts": Prompts.paper(method="clims"), "preset": "clean", "scales": (1.0,)}
    return CLIMS(clip, start, **{**usual, **options})


# -- one step -------------------------------------------------------------------------------


def averaged(clip, prompts, phrase):
    message = clip.encode_text([template.replace("{}", phrase) for template in prompts.templates])
    return F.normalize(message.mean(0), dim=0)


def literal_losses(clip, prompts, choices, images, maps, labels):
    """The four losses pair by pair and text by text, as the papers' codes do it."""
    otm, btm, cbs, pairs = [], [], 0.0, labels.nonzero().tolist()
    for n, c in pairs:
        size = (choices["side"],) * 2 if choices["side"] else images.shape[2:]
        options = {"size": size, "mode": "bilinear", "align_corners": choices["align_corners"]}
        x = F.interpolate(images[n : n + 1], **options)
        p = F.interpolate(maps[n : n + 1, c : c + 1], **options)
        if choices["pixels"] == "rgb":
            seen = [clip.encode_image(each) for each in (x * p, x * (1 - p))]
        else:
            x = (x - clip.mean) / clip.std
            seen = [clip.encode_image(each, normalised=True) for each in (x * p, x * (1 - p))]
        shown, left = (F.normalize(each, dim=-1)[0] for each in seen)
        text, name = averaged(clip, prompts, prompts.phrases[c]), prompts.classes[c]
        heavy = choices["heavy_classes"].get(name, 1.0)
        otm.append(-heavy * (shown @ text).clamp(1e-4, 0.9999).log())
        btm.append(-heavy * (1 - (left @ text).clamp(1e-4, 0.9999)).log())
        words = prompts.backgrounds_of(name)
        share = 1 / len(words if choices["backgrounds"] == "texts" else pairs)
        for word in words:
            cbs = cbs - share * (1 - shown @ averaged(clip, prompts, word)).log()
    area = maps if choices["area"] == "all" else maps[labels > 0]
    return {
        **{"otm": torch.stack(otm).mean(), "btm": torch.stack(btm).mean()},
        **{"cbs": cbs, "reg": area.mean()},
    }


@pytest.mark.parametrize("preset", ["clean", "paper"])
@pytest.mark.parametrize("own", [True, False], ids=["backgrounds of a class", "for all"])
def test_the_losses_equal_a_literal_version(clip, rng, preset, own):
    """Those of the reference are among the golden figures."""
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


def test_maps_can_be_looked_at_after_every_epoch(clip, cam, world, batch):
    """And looking changes nothing, statistics of batch normalisation included."""
    seen = {}
    looked = make(clip, cam).fit(
        world, **FIT, on_epoch=lambda epoch, m: seen.update({epoch: m(*batch).cams})
    )
    blind = make(clip, cam).fit(world, **FIT)
    assert list(seen) == [1, 2]
    assert torch.equal(seen[2], looked(*batch).cams)
    assert not torch.equal(seen[1], seen[2])
    torch.testing.assert_close(looked.state_dict(), blind.state_dict(), atol=0, rtol=0)


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
    backbone, head, bias = method.backbone_, method.head_.detach(), method.bias_.detach()
    calibrate(backbone, head, bias, world)
    for c in range(8):
        shown = [s.image[None] for s in world if s.labels[c]]
        if shown:
            maps = [torch.einsum("bdhw,d->bhw", backbone(x), head[c]) + bias[c] for x in shown]
            usual = torch.stack([m.amax() for m in maps]).median().item()
            assert usual == pytest.approx(2.0, abs=1e-3) or usual <= -3


def test_a_checkpoint_of_another_run_is_refused(clip, cam, world, tmp_path):
    make(clip, cam).fit(world, **FIT, checkpoint=tmp_path / "run")
    other = copy.deepcopy(cam)
    other.head_.data += 0.01
    for start, options, fit, message in (
        (cam, {"otm": 1.0}, {}, "of a run with otm"),
        (other, {}, {}, "of a run with start"),
    ):
        method = make(clip, start, **options)
        with pytest.raises(ValueError, match=message):
            method.fit(world, **{**FIT, **fit}, checkpoint=tmp_path / "run")


# -- what is refused ------------------------------------------------------------------------


def test_what_does_not_go_together(clip, cam, world):
    three = Prompts(["cow", "bus", "cat"], ["sky"], template="a {}")
    paper = Prompts.paper(method="clims")
    mirrored = paper.replace(classes=paper.classes[::-1])
    for evaluator, start, options, fit, message in (
        (clip, cam, {}, {"baseline": {"epochs": 1}}, "give one of the two"),
        (clip, "paper", {}, {"baseline": {"momentum": 1}}, "baseline names momentum"),
        (clip, cam, {"prompts": three}, {}, r"samples have 8 classes .* prompts 3"),
        (clip, cam, {"prompts": mirrored}, {}, "same in the same order"),
        (clip, cam, {"prompts": ["cow"]}, {}, "prompts is list, expected Prompts"),
        (clip, CAM("paper"), {}, {}, "is not fitted; call its fit"),
        (None, cam, {}, {}, "no CLIP to learn from"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            make(evaluator, start, **options).fit(world, **FIT, **fit)


def test_maps_that_say_nothing_stop_the_training(clip, cam, world):
    with pytest.raises(Diverged, match=r"maps of the classes present average 0\.00"):
        make(clip, cam, reg=1e4).fit(world, **{**FIT, "epochs": 60}, learning_rate=0.3)
    with pytest.raises(Diverged, match="diverged in epoch 1: the maps"):
        check_maps(0.998, "epoch 1")
