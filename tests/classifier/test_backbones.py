"""Backbones: sizes, normalisation, seeds, weights from files, and modules of one's own."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from tests.trainings import Tiny
from wsss_kit.backbones import ResNetBackbone, build_backbone


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


SIZES = [
    ("paper", None, 8, 96),
    ("paper", 4, 4, 96),
    ("paper", 16, 16, 96),
    ("resnet18", None, 16, 512),
    ("resnet18", 8, 8, 512),
    ("resnet50", 8, 8, 2048),
]


@pytest.mark.parametrize(("name", "stride", "cells", "channels"), SIZES)
@torch.no_grad()
def test_output_sizes_and_dilation(name, stride, cells, channels):
    backbone = build_backbone(name, stride=stride).eval()
    assert backbone.out_channels == channels
    features = backbone(torch.rand(1, 3, 64, 50))
    assert features.shape == (1, channels, 64 // cells, -(-50 // cells))
    if name == "paper":
        return
    for stage, dilation in ((backbone.layer3, 2), (backbone.layer4, 4)):
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
        seen = {m.dilation[0] for m in convolutions if m.kernel_size == (3, 3)}
        assert seen == {dilation if cells == 8 else 1}
    assert all(m.stride == (1, 1) for m in convolutions)


@torch.no_grad()
def test_up_to_the_last_stage_it_is_torchvision(resnet18, tmp_path):
    """With the weights of a file of either kind, which need not hold a classifier."""
    state = {k: v for k, v in resnet18.state_dict().items() if not k.startswith("fc.")}
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(resnet18.state_dict(), tmp_path / "weights.pth")
    backbone, other = (
        ResNetBackbone("resnet18", weights=tmp_path / f"weights.{ending}").eval()
        for ending in ("safetensors", "pth")
    )
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
    assert torch.equal(features, other(images))


def test_weights_that_are_not_the_network_s_are_refused(resnet18, tmp_path):
    """Otherwise a backbone of random weights would go to work under a trained one's name."""
    path, state = tmp_path / "weights.safetensors", resnet18.state_dict()
    for wrong in (
        {"x": torch.zeros(1)},
        {f"module.{key}": value for key, value in state.items()},
        torchvision.models.resnet34(weights=None).state_dict(),
    ):
        save_file(wrong, path)
        with pytest.raises(ValueError, match="weights"):
            ResNetBackbone("resnet18", weights=path)
    torch.save(state, tmp_path / "weights.pth")
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match="weights"):
            ResNetBackbone("resnet18", weights=path)
    with pytest.raises(FileNotFoundError, match=r"nope\.pth is missing; give None, 'imagenet'"):
        ResNetBackbone("resnet18", weights=tmp_path / "nope.pth")


@pytest.mark.parametrize("name", ["paper", "resnet18"])
def test_equal_seeds_give_equal_weights(name):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, same, other = (build_backbone(name, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.rand(4), expected)  # the global random state is left as it was
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_module_of_ones_own_comes_back_as_it_is():
    mine = Tiny().double()
    assert build_backbone(mine, seed=5) is mine
    assert mine.training and mine.stem.weight.dtype == torch.float64
    named = Tiny()
    named.out_channels = "five"
    own = "stride and weights belong to named backbones"
    for backbone, options, message in (
        (mine, {"stride": 8}, own),
        (mine, {"weights": "imagenet"}, own),
        (nn.Linear(3, 3), {}, "Linear has no integer out_channels"),
        (named, {}, "Tiny has no integer out_channels; set it"),
        ("vgg", {}, "backbone is 'vgg', expected one of paper, resnet18"),
        ("resnet18", {"stride": 32}, "stride is 32, expected 16 or 8"),
        ("paper", {"stride": 2}, "stride is 2, expected 4, 8 or 16"),
        ("paper", {"weights": "imagenet"}, "imagenet"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            build_backbone(backbone, **options)
