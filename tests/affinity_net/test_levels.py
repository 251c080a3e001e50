"""Several levels of a backbone, and PSA's released affinity; IRN's is among the golden figures."""

import pytest
import torch
from torch.nn import functional as F

from tests.classifier.resnet38_layout import released
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.affinity_net.pairs import enlarged
from wsss_kit.backbones import build_backbone
from wsss_kit.cam import upsample
from wsss_kit.classes import IMAGENET_MEAN


@pytest.mark.parametrize("name", ["paper", "resnet50"])
def test_a_backbone_s_levels_are_as_wide_as_it_says_and_end_in_its_features(name, rng):
    backbone = build_backbone(name).eval()
    images = torch.rand(1, 3, 64, 48, generator=rng)
    with torch.no_grad():
        levels, features = backbone.levels(images), backbone(images)
    assert [level.shape[1] for level in levels] == list(backbone.level_channels)
    assert torch.equal(levels[-1], features) and levels[-1].shape[1] == backbone.out_channels
    assert levels[0].shape[2:] == (16, 12)


@torch.no_grad()
def test_levels_come_together_on_the_finest_grid(rng):
    net = AffinityNet("resnet18", levels=3, channels=(4, 8, 8), seed=3, device="cpu").eval()
    images = torch.rand(2, 3, 32, 48, generator=rng)
    seen = zip(net.project.each, net.trunk.levels(images)[-3:], strict=True)
    levels = [F.elu(upsample(project(level), (4, 6))) for project, level in seen]
    expected = F.elu(net.project.joined(torch.cat(levels, 1)))
    assert torch.allclose(net.features(images), expected, atol=1e-6)
    assert net(images).shape == (2, 24, 24)
    for options, message in (
        ({"radius": 10**6}, "radius is 1000000, expected at most 64"),
        ({"levels": 4}, r"levels is 4 and \w+ has 3 levels"),
        ({"levels": 3, "channels": (4, 8)}, r"channels are \(4, 8\) and there are 3 levels"),
        ({"levels": 2, "channels": 6, "kind": "boundary"}, "expected multiples of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            AffinityNet("paper", weights="web", **options)


def test_coarse_cells_stay_over_their_pixels():
    coarse = torch.arange(3.0).view(1, 1, 1, 3).expand(1, 1, 2, 3)
    twice = F.interpolate(coarse, scale_factor=2, mode="bilinear")
    assert torch.equal(enlarged(coarse, (3, 5)), twice[:, :, :3, :5])
    assert torch.equal(enlarged(coarse, (2, 3)), coarse)
    assert enlarged(coarse, (7, 7)).shape == (1, 1, 7, 7)  # no whole factor


@torch.no_grad()
def test_psa_s_released_affinity_is_walked_as_its_layout_says(tmp_path):
    random = torch.Generator().manual_seed(2)
    state = released(1)
    shapes = {"f8_3": (64, 512), "f8_4": (128, 1024), "f8_5": (256, 4096), "f9": (448, 448)}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(*shape, 1, 1, generator=random) / shape[1] ** 0.5
    torch.save(state, tmp_path / "res38_aff.pth")
    net = AffinityNet.load(tmp_path / "res38_aff.pth", device="cpu")
    images = torch.rand(1, 3, 40, 33, generator=random)
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)  # PSA continues images to whole cells
    padded = F.pad(images - mean, (0, 7)) + mean
    seen = zip(shapes, net.trunk.levels(padded), strict=False)
    levels = [F.elu(F.conv2d(x, state[f"{name}.weight"])) for name, x in seen]
    expected = F.elu(F.conv2d(torch.cat(levels, 1), state["f9.weight"]))
    torch.testing.assert_close(net.features(images), expected)
    assert expected.std() > 0.01 and (net.radius, net.kind) == (5, "features")
    for name, content, message in (
        ("res38_cls.pth", {"conv1a.weight": torch.zeros(1)}, "is neither PSA's affinity"),
        ("cut.pth", {"f9.weight": torch.zeros(448, 448, 1, 1)}, "does not hold the weights of the"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            AffinityNet.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing"):
        AffinityNet.load(tmp_path / "none.pth")
