"""Several levels of a backbone, and the two affinities that were released with theirs."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tests.classifier.resnet38_layout import released, walk
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.affinity_net.pairs import enlarged
from wsss_kit.backbones import build_backbone
from wsss_kit.cam import upsample
from wsss_kit.classes import IMAGENET_MEAN


class Pyramid(nn.Module):
    """Three levels at strides 2, 4 and 8."""

    out_channels = 5
    level_channels = (2, 3, 5)

    def __init__(self):
        super().__init__()
        ins = (3, 2, 3)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 2, 2) for i, o in zip(ins, self.level_channels, strict=True)
        )

    def forward(self, images):
        return self.levels(images)[-1]

    def levels(self, images):
        result = [images]
        for conv in self.convs:
            result.append(conv(result[-1]).relu())
        return result[1:]


@pytest.mark.parametrize("name", ["paper", "resnet18", "resnet50"])
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
    net = AffinityNet(Pyramid(), levels=2, channels=(4, 8), seed=3)
    images = torch.rand(2, 3, 16, 24, generator=rng)
    fine, coarse = net.trunk.levels(images)[1:]
    one, two = net.project.each
    both = torch.cat([F.elu(one(fine)), F.elu(upsample(two(coarse), (4, 6)))], 1)
    expected = F.elu(net.project.joined(both))
    assert torch.allclose(net.features(images), expected, atol=1e-6)
    assert net(images).shape == (2, 24, 24)
    with pytest.raises(ValueError, match="levels is 4 and Pyramid has 3 levels"):
        AffinityNet(Pyramid(), levels=4)
    with pytest.raises(ValueError, match=r"channels are \(4, 8\) and there are 3 levels"):
        AffinityNet(Pyramid(), levels=3, channels=(4, 8))
    with pytest.raises(ValueError, match=r"channels are \(6, 6\), expected multiples of 4"):
        AffinityNet(Pyramid(), levels=2, channels=6, kind="boundary")


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
    for name, shape in {
        "f8_3": (64, 512),
        "f8_4": (128, 1024),
        "f8_5": (256, 4096),
        "f9": (448, 448),
    }.items():
        state[f"{name}.weight"] = torch.randn(*shape, 1, 1, generator=random) / shape[1] ** 0.5
    torch.save(state, tmp_path / "res38_aff.pth")
    net = AffinityNet.load(tmp_path / "res38_aff.pth", device="cpu")
    images = torch.rand(1, 3, 40, 33, generator=random)
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)  # PSA continues images to whole cells
    padded = F.pad(images - mean, (0, 7)) + mean
    seen = zip(("f8_3", "f8_4", "f8_5"), walk(state, padded), strict=True)
    levels = [F.elu(F.conv2d(x, state[f"{name}.weight"])) for name, x in seen]
    expected = F.elu(F.conv2d(torch.cat(levels, 1), state["f9.weight"]))
    torch.testing.assert_close(net.features(images), expected, rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.1 and (net.radius, net.kind) == (5, "features")


def released_irn(random):
    """A state dict of random weights as IRN's network has it, displacement branch included."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        resnet = torchvision.models.resnet50(weights=None).state_dict()
    for key, value in resnet.items():
        if "running_var" in key:
            resnet[key] = torch.rand(value.shape, generator=random) + 0.5
    state = {f"resnet50.{key}": value for key, value in resnet.items()}
    state |= {"stage1.0.weight": resnet["conv1.weight"], "mean_shift.running_mean": torch.zeros(2)}
    for number, ins in enumerate((64, 256, 512, 1024, 2048), 1):
        state[f"fc_edge{number}.0.weight"] = torch.randn(32, ins, 1, 1, generator=random)
        state[f"fc_edge{number}.1.weight"] = torch.rand(32, generator=random) + 0.5
        state[f"fc_edge{number}.1.bias"] = torch.randn(32, generator=random)
        state[f"fc_dp{number}.0.weight"] = torch.zeros(64, ins, 1, 1)
    state["fc_edge6.weight"] = torch.randn(1, 160, 1, 1, generator=random) / 4
    state["fc_edge6.bias"] = torch.randn(1, generator=random)
    return state


@torch.no_grad()
def test_irn_s_released_boundary_is_walked_as_its_layout_says(tmp_path):
    random = torch.Generator().manual_seed(4)
    state = released_irn(random)
    torch.save(state, tmp_path / "res50_irn.pth")
    net = AffinityNet.load(tmp_path / "res50_irn.pth", device="cpu")
    assert (net.pad_to, net.levels, net.kind, net.radius) == (512, 5, "boundary", 5)
    net.pad_to = 96  # 512 pixels take a minute of these tests
    images = torch.rand(1, 3, 70, 53, generator=random)

    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    both = torch.cat([images, images.flip(-1)])
    x = F.pad((both - mean) / std, (0, 96 - 53, 0, 96 - 70))
    resnet = torchvision.models.resnet50(weights=None).eval()
    keys = [key for key in state if key.startswith("resnet50.")]
    resnet.load_state_dict({key.removeprefix("resnet50."): state[key] for key in keys})
    for layer in (resnet.layer4[0].conv2, resnet.layer4[0].downsample[0]):
        layer.stride = (1, 1)
    stages = [nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)]
    stages += [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    edges = []
    for number, (stage, scale) in enumerate(zip(stages, (1, 1, 2, 4, 4), strict=True), 1):
        x = stage(x)
        edge = F.conv2d(x, state[f"fc_edge{number}.0.weight"])
        norm = [state[f"fc_edge{number}.1.{part}"] for part in ("weight", "bias")]
        edge = F.group_norm(edge, 4, *norm)
        if scale > 1:
            edge = F.interpolate(edge, scale_factor=scale, mode="bilinear", align_corners=False)
        edges.append(edge.relu())
    logit = F.conv2d(torch.cat(edges, 1), state["fc_edge6.weight"], state["fc_edge6.bias"])
    logit = logit[..., :18, :14]  # every fourth pixel of 70 and of 53
    expected = (logit[:1] / 2 + logit[1:].flip(-1) / 2).sigmoid()
    result = net.boundaries(images)
    assert result.shape == (1, 1, 18, 14) and result.logit().std() > 0.2
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)
    net.save(tmp_path / "ours")
    again = AffinityNet.load(tmp_path / "ours", device="cpu")
    assert torch.equal(again.boundaries(images), result) and again.pad_to == 96


def test_another_file_is_no_affinity(tmp_path):
    torch.save({"conv1a.weight": torch.zeros(1)}, tmp_path / "res38_cls.pth")
    with pytest.raises(ValueError, match="is neither PSA's affinity"):
        AffinityNet.load(tmp_path / "res38_cls.pth")
    torch.save({"f9.weight": torch.zeros(448, 448, 1, 1)}, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match="does not hold the weights of the Aff"):
        AffinityNet.load(tmp_path / "cut.pth")
    with pytest.raises(FileNotFoundError, match="missing"):
        AffinityNet.load(tmp_path / "none.pth")
