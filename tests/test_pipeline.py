"""The pipeline: which steps hold for which method, and what a protocol calls them."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from wsss_kit.affinity_net import AffinityNet
from wsss_kit.clip import load_clip
from wsss_kit.crf import crf_of_present, pamr
from wsss_kit.evaluation import predict_masks, sweep_background
from wsss_kit.masks import BackgroundRule, scores_to_masks
from wsss_kit.methods.base import CAMMethod, MethodOutput
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.clims import CLIMS
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import cam_masks, clims_masks, clip_es_masks, sc_cam_masks

NAN = float("nan")


@pytest.fixture(scope="module")
def world():
    return PaperWorld(4, split="val")


@pytest.fixture(scope="module")
def batch(world):
    return torch.stack([s.image for s in world]), torch.stack([s.labels for s in world])


@pytest.fixture(scope="module")
def methods():
    load = {"device": "cpu"}
    return {
        "CAM": CAM("paper", weights="web", **load).fit(
            PaperWorld(8), train_backbone=False, epochs=20, progress=False
        ),
        "SC-CAM": SCCAM.load("paper", **load),
        "CLIMS": CLIMS.load("paper", **load),
        "CLIP-ES": CLIPES(load_clip("paper", **load), prompts=Prompts.paper()).fit(),
    }


def test_the_steps_of_each_method_and_their_names(methods):
    net, irn = (
        AffinityNet(device="cpu", channels=8, **options)
        for options in ({}, {"kind": "boundary", "levels": 2})
    )
    for name, plain, walked in (
        ("CAM", "constant 0.15", "(1 - max)^16"),
        ("SC-CAM", "constant 0.15", "(1 - max)^16"),
        ("CLIMS", "constant 0.15", "constant 0.2"),
        ("CLIP-ES", "(1 - max)^1", "(1 - max)^1"),
    ):
        assert str(Pipeline(methods[name]).rule) == plain
        assert str(Pipeline(methods[name], affinity=net).rule) == walked
    for name, options, refinement in (
        ("CLIP-ES", {}, "attention affinity"),
        ("CLIP-ES", {"affinity": None, "crf": True}, "dense CRF"),
        ("CAM", {}, "none"),
        ("CAM", {"affinity": net}, "random walk, PSA's affinity"),
        ("CAM", {"affinity": irn, "crf": True}, "random walk, IRN's boundary, dense CRF"),
    ):
        assert Pipeline(methods[name], **options).refinement == refinement
    with pytest.raises(ValueError, match="affinity is 'attention', expected 'own', None, or an"):
        Pipeline(methods["CAM"], affinity="attention")


CHAINS = {
    **{"CAM": cam_masks, "SC-CAM": sc_cam_masks, "CLIMS": clims_masks},
    "CLIP-ES": partial(clip_es_masks, min_confidence=None),
}


@pytest.mark.parametrize("name", CHAINS)
def test_without_arguments_it_is_the_chain_of_the_paper(methods, batch, name):
    recipe = partial(CHAINS[name], *batch, method=methods[name])
    pipeline = Pipeline(methods[name], crf=name == "CLIP-ES")
    assert torch.equal(pipeline(*batch), recipe())
    walked = replace(pipeline, affinity=AffinityNet(device="cpu", channels=8))
    assert torch.equal(walked(*batch), recipe(affinity_net=walked.affinity))
    assert not torch.equal(walked.maps(*batch), pipeline.maps(*batch))


def test_another_refinement_takes_the_place_of_the_crf(methods, batch):
    refine = partial(crf_of_present, refine=pamr)
    pipeline = Pipeline(methods["CAM"], background=0.3, crf=refine)
    scores = BackgroundRule(threshold=0.3).scores(pipeline.maps(*batch))
    expected = refine(scores, *batch)
    torch.testing.assert_close(pipeline.scores(*batch), expected)
    assert torch.equal(pipeline(*batch), scores_to_masks(expected, batch[1]))


def test_the_sweep_and_the_prediction_take_a_pipeline(methods, world, batch):
    pipeline, rules = Pipeline(methods["CLIP-ES"], crf=True), [BackgroundRule(power=1)]
    options = {"rules": rules, "shown": False}
    by_parts = sweep_background(
        Pipeline(methods["CLIP-ES"]).maps, world, world.masks, refine=pipeline.refine, **options
    )
    assert sweep_background(pipeline, world, world.masks, **options) == by_parts
    masks = predict_masks(pipeline, world, rules[0], shown=False)
    for name, mask in zip(world.names, pipeline(*batch), strict=True):
        assert torch.equal(masks[name], mask)


def test_values_are_checked_once_where_they_enter(methods, batch, monkeypatch):
    passes, real = [], torch.Tensor.aminmax

    def counted(values, **options):
        passes.append(tuple(values.shape))
        return real(values, **options)

    pipeline = Pipeline(methods["CAM"], crf=partial(crf_of_present, refine=pamr))
    monkeypatch.setattr(torch.Tensor, "aminmax", counted)
    pipeline(*batch)
    assert passes == [(4, 3, 96, 96), (4, 8, 96, 96)]  # the images, and the maps of the method


WRONG = [
    (1.5, {}, r"the maps ranges from 1.5 to 1.5, expected \[0, 1\]"),
    (NAN, {}, "the maps holds NaN"),
    (0.5, {"crf": lambda scores, *_: scores * NAN}, "scores holds NaN"),
    (0.5, {"crf": lambda scores, *_: 3 * scores}, "scores ranges from .* to 1.5"),
    (0.5, {"affinity": lambda _: torch.full((1, 4, 4), NAN)}, "entries from nan on"),
]


@pytest.mark.parametrize(("maps", "options", "message"), WRONG)
def test_wrong_values_that_functions_of_the_caller_return_are_refused(maps, options, message):
    options = {"min_confidence": 0.9, **options}
    pipeline = Pipeline(lambda images, labels: torch.full((1, 1, 2, 2), maps), **options)
    with pytest.raises(ValueError, match=message):
        pipeline(torch.full((1, 3, 4, 4), 0.5), torch.ones(1, 1))


def test_the_walk_of_psa_is_that_of_its_code(methods, rng):
    """Scores of the image's size, zero-padded to whole cells of 8 pixels and averaged over them.

    And the image continued in the mean colour; as `infer_aff.py` has it.
    """
    net = AffinityNet("paper", weights="web", device="cpu", channels=8, radius=3)
    images = torch.rand(1, 3, 43, 61, generator=rng)
    labels = torch.tensor([[1.0, 0, 0, 1, 0, 0, 0, 0]])
    maps = methods["CAM"].full_maps(images, labels)[0]  # (C, 43, 61)
    scores = torch.cat([(1 - maps.amax(0, keepdim=True)) ** 16, maps])
    padded = torch.zeros(9, 48, 64)
    padded[:, :43, :61] = scores
    cells = torch.stack([each.view(6, 8, 8, 8).mean((1, 3)) for each in padded])  # (9, 6, 8)
    whole = net.trunk.mean.expand(1, 3, 48, 64).clone()
    whole[:, :, :43, :61] = images
    affinity = net(whole)[0] ** 8
    transition = affinity / affinity.sum(0, keepdim=True)
    for _ in range(3):
        transition = transition @ transition
    walked = (cells.flatten(1) @ transition).view(1, 9, 6, 8)
    walked = torch.nn.functional.interpolate(walked, size=(48, 64), mode="bilinear")
    expected = walked[..., :43, :61]
    pipeline = Pipeline(methods["CAM"], affinity=net, squarings=3)
    torch.testing.assert_close(pipeline.scores(images, labels), expected, atol=1e-4, rtol=1e-3)


class OwnWalk(CAMMethod):
    """Maps on 2 x 2 cells and an affinity that mixes all of them, without a CLIP."""

    brings_affinity = True

    def forward(self, images, labels):
        maps = torch.zeros(1, 1, 2, 2)
        maps[..., 0, 0] = 1
        return MethodOutput(maps, torch.full((1, 4, 4), 0.25))


@pytest.mark.parametrize("method", [OwnWalk(), OwnWalk().forward], ids=["method", "function"])
def test_an_affinity_of_ones_own_needs_no_clip(method):
    pipeline, images = Pipeline(method), torch.zeros(1, 3, 4, 4)
    maps = pipeline.own_maps(images, torch.ones(1, 1))
    assert torch.equal(maps, torch.zeros(1, 1, 2, 2))  # equal shares
    assert pipeline.cell == 1 and pipeline.device.type == "cpu"
    named = "own affinity" if isinstance(method, OwnWalk) else "none"
    assert pipeline.refinement == named
