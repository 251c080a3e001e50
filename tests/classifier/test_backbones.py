"""Backbones: sizes, normalisation, seeds, weights from files, and modules of one's own."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from wsss_kit.backbones import BACKBONES, RESNETS, ResNetBackbone, build_backbone


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


@pytest.mark.parametrize(
    ("name", "stride", "channels"),
    [
        ("paper", 4, 96),
        ("paper", 8, 96),
        ("paper", 16, 96),
        ("resnet18", 8, 512),
        ("resnet18", 16, 512),
        ("resnet34", 16, 512),
        ("resnet50", 8, 2048),
        ("resnet50", 16, 2048),
    ],
)
@torch.no_grad()
def test_output_sizes(name, stride, channels):
    backbone = build_backbone(name, stride=stride).eval()
    assert backbone.out_channels == channels
    features = backbone(torch.rand(1, 3, 64, 50))
    assert features.shape == (1, channels, 64 // stride, -(-50 // stride))


def test_default_strides():
    assert build_backbone("paper")(torch.rand(1, 3, 64, 64)).shape[-1] == 8
    assert build_backbone("resnet18")(torch.rand(1, 3, 64, 64)).shape[-1] == 4
    assert BACKBONES == ("paper", *RESNETS, "resnet38")


def convolutions(backbone, stage):
    layers = getattr(backbone, stage).modules()
    return [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]


@pytest.mark.parametrize(("stride", "third", "fourth"), [(16, 1, 1), (8, 2, 4)])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_dilation(name, stride, third, fourth):
    backbone = build_backbone(name, stride=stride)
    assert {m.dilation for m in convolutions(backbone, "layer3")} == {(third, third)}
    assert {m.dilation for m in convolutions(backbone, "layer4")} == {(fourth, fourth)}
    assert all(m.stride == (1, 1) for m in convolutions(backbone, "layer4"))


@torch.no_grad()
def test_up_to_the_last_stage_it_is_torchvision(resnet18, tmp_path):
    save_file(resnet18.state_dict(), tmp_path / "weights.safetensors")
    backbone = ResNetBackbone("resnet18", weights=tmp_path / "weights.safetensors").eval()
    images = torch.rand(2, 3, 64, 48)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    seen = {}
    resnet18.layer3.register_forward_hook(lambda *given: seen.update(theirs=given[2]))
    backbone.layer3.register_forward_hook(lambda *given: seen.update(ours=given[2]))
    resnet18((images - mean) / std)
    features = backbone(images)
    torch.testing.assert_close(seen["ours"], seen["theirs"])
    torch.testing.assert_close(features, backbone.layer4(seen["theirs"]))


def test_weights_from_pth_equal_weights_from_safetensors(resnet18, tmp_path):
    save_file(resnet18.state_dict(), tmp_path / "weights.safetensors")
    torch.save(resnet18.state_dict(), tmp_path / "weights.pth")
    one, other = (
        ResNetBackbone("resnet18", weights=str(tmp_path / f"weights.{ending}")).state_dict()
        for ending in ("safetensors", "pth")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(one["layer1.0.conv1.weight"], resnet18.layer1[0].conv1.weight)


def test_missing_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nope\.pth is missing; give None, 'imagenet'"):
        ResNetBackbone("resnet18", weights=tmp_path / "nope.pth")


def test_weights_of_another_network_are_refused(resnet18, tmp_path):
    """Otherwise a backbone of random weights would go to work under a trained one's name."""
    path = tmp_path / "weights.safetensors"
    state = resnet18.state_dict()
    prefixed = {f"module.{key}": value for key, value in state.items()}
    other = torchvision.models.resnet50(weights=None).state_dict()
    for wrong in ({"x": torch.zeros(1)}, prefixed, other):
        save_file(wrong, path)
        with pytest.raises(ValueError, match="weights"):
            ResNetBackbone("resnet18", weights=path)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_truncated_weights_are_refused(resnet18, tmp_path, ending):
    path = tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else torch.save)(resnet18.state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="weights"):
        ResNetBackbone("resnet18", weights=path)


def test_the_classifier_of_the_file_does_not_matter(resnet18, tmp_path):
    """A file without ``fc``, or with another number of classes, serves as well."""
    state = {k: v for k, v in resnet18.state_dict().items() if not k.startswith("fc.")}
    save_file(state, tmp_path / "weights.safetensors")
    backbone = ResNetBackbone("resnet18", weights=tmp_path / "weights.safetensors")
    assert torch.equal(backbone.stem[0].weight, resnet18.conv1.weight)


@pytest.mark.parametrize("name", ["paper", "resnet18"])
def test_equal_seeds_give_equal_weights(name):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, same, other = (build_backbone(name, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.rand(4), expected)  # the global random state is left as it was
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("paper", (0.45, 0.45, 0.45), (0.27, 0.27, 0.27)),
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_backbones_normalise_for_themselves(name, mean, std):
    """And their statistics are no part of the state, so that published weights fit."""
    backbone, seen, images = build_backbone(name), [], torch.rand(2, 3, 32, 32)
    assert not {"mean", "std"} & set(backbone.state_dict())
    backbone.stem.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    backbone(images)
    literal = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(seen[0], literal)


def test_the_paper_backbone_is_small():
    parameters = sum(p.numel() for p in build_backbone("paper").parameters())
    assert 300_000 < parameters < 600_000


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.out_channels = 5
        self.layer = nn.Conv2d(3, 5, 4, 4)

    def forward(self, images):
        return self.layer(images)


def test_an_own_module_comes_back_as_it_is():
    mine = Own().double()
    before = {k: v.clone() for k, v in mine.state_dict().items()}
    assert build_backbone(mine, seed=5) is mine
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())
    assert mine.training and mine.layer.weight.dtype == torch.float64


def test_errors():
    mine = Own()
    with pytest.raises(ValueError, match="stride and weights belong to named backbones"):
        build_backbone(mine, stride=8)
    with pytest.raises(ValueError, match="stride and weights belong to named backbones"):
        build_backbone(mine, weights="imagenet")
    with pytest.raises(ValueError, match="Linear has no integer out_channels"):
        build_backbone(nn.Linear(3, 3))
    mine.out_channels = "five"
    with pytest.raises(ValueError, match="Own has no integer out_channels; set it"):
        build_backbone(mine)
    with pytest.raises(ValueError, match="backbone is 'vgg', expected one of paper, resnet18"):
        build_backbone("vgg")
    with pytest.raises(ValueError, match="stride is 32, expected 16 or 8"):
        build_backbone("resnet18", stride=32)
    with pytest.raises(ValueError, match="stride is 2, expected 4, 8 or 16"):
        build_backbone("paper", stride=2)
    with pytest.raises((ValueError, FileNotFoundError), match="imagenet"):
        build_backbone("paper", weights="imagenet")
