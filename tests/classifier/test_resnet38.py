"""ResNet-38: the released layout walked literally, weights from files, what is trained."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from wsss_kit.classifier.backbones import BACKBONES, build_backbone
from wsss_kit.classifier.train import groups_of
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.methods.sc_cam.presets import PRESETS
from wsss_kit.paperworld import PaperWorld

UNITS = {"b2": 3, "b3": 3, "b4": 6, "b5": 3}
WIDTHS = {"b2": (128, 128), "b3": (256, 256), "b4": (512, 512), "b5": (512, 1024)}


def released(seed=0):
    """A state dict of random weights as the released files have it, written from their layout."""
    random = torch.Generator().manual_seed(seed)
    state = {"fc8_20.weight": torch.zeros(20, 4096, 1, 1), "fc8_200.weight": torch.zeros(1)}

    def convolution(name, ins, outs, side):
        fan = ins * side * side
        weights = torch.randn(outs, ins, side, side, generator=random)
        state[f"{name}.weight"] = weights * (2 / fan) ** 0.5

    def norm(name, channels):
        state[f"{name}.weight"] = torch.rand(channels, generator=random) + 0.5
        state[f"{name}.bias"] = torch.randn(channels, generator=random) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=random) * 0.1
        state[f"{name}.running_var"] = torch.rand(channels, generator=random) + 0.5

    convolution("conv1a", 3, 64, 3)
    ins = 64
    for block, units in UNITS.items():
        mid, outs = WIDTHS[block]
        for unit in range(units):
            name = block if unit == 0 else f"{block}_{unit}"
            norm(f"{name}.bn_branch2a", ins)
            convolution(f"{name}.conv_branch2a", ins, mid, 3)
            norm(f"{name}.bn_branch2b1", mid)
            convolution(f"{name}.conv_branch2b1", mid, outs, 3)
            if unit == 0:
                convolution(f"{name}.conv_branch1", ins, outs, 1)
            ins = outs
    for name, outs in (("b6", 2048), ("b7", 4096)):
        norm(f"{name}.bn_branch2a", ins)
        convolution(f"{name}.conv_branch2a", ins, outs // 4, 1)
        norm(f"{name}.bn_branch2b1", outs // 4)
        convolution(f"{name}.conv_branch2b1", outs // 4, outs // 2, 3)
        norm(f"{name}.bn_branch2b2", outs // 2)
        convolution(f"{name}.conv_branch2b2", outs // 2, outs, 1)
        convolution(f"{name}.conv_branch1", ins, outs, 1)
        ins = outs
    norm("bn7", 4096)
    return state


def walk(state, images):
    """The network as a list of what happens, in evaluation mode."""

    def norm(x, name):
        of = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *of))

    def convolve(x, name, stride=1, dilation=1):
        weight = state[f"{name}.weight"]
        padding = dilation if weight.shape[-1] == 3 else 0
        return F.conv2d(x, weight, None, stride, padding, dilation)

    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = convolve((images - mean) / std, "conv1a")
    for block, units in UNITS.items():
        for unit in range(units):
            name = block if unit == 0 else f"{block}_{unit}"
            stride = 2 if unit == 0 and block != "b5" else 1
            first = 2 if block == "b5" and unit else 1
            second = 2 if block == "b5" else 1
            y = norm(x, f"{name}.bn_branch2a")
            shortcut = convolve(y, f"{name}.conv_branch1", stride) if unit == 0 else x
            y = convolve(y, f"{name}.conv_branch2a", stride, first)
            y = norm(y, f"{name}.bn_branch2b1")
            x = shortcut + convolve(y, f"{name}.conv_branch2b1", 1, second)
    for name in ("b6", "b7"):
        y = norm(x, f"{name}.bn_branch2a")
        shortcut = convolve(y, f"{name}.conv_branch1")
        y = norm(convolve(y, f"{name}.conv_branch2a"), f"{name}.bn_branch2b1")
        y = norm(convolve(y, f"{name}.conv_branch2b1", 1, 4), f"{name}.bn_branch2b2")
        x = shortcut + convolve(y, f"{name}.conv_branch2b2")
    return norm(x, "bn7")


@pytest.fixture(scope="module")
def state():
    return released()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet38") / "res38.safetensors"
    save_file(state, path)
    return path


@torch.no_grad()
def test_released_weights_give_what_the_layout_says(state, file):
    trunk = build_backbone("resnet38", weights=file).eval()
    images = torch.rand(2, 3, 40, 33, generator=torch.Generator().manual_seed(1))
    features = trunk(images)
    assert features.shape == (2, 4096, 5, 5) and trunk.out_channels == 4096
    torch.testing.assert_close(features, walk(state, images), rtol=1e-3, atol=1e-3)
    assert features.std() > 0.1


def test_it_has_the_weights_of_the_layout_and_no_others(state):
    trunk = build_backbone("resnet38")
    weights = sum(p.numel() for p in trunk.parameters())
    learned = {k: v for k, v in state.items() if "running" not in k and "fc8" not in k}
    assert weights == sum(v.numel() for v in learned.values())
    assert "resnet38" in BACKBONES


def test_blocks_six_and_seven_drop_channels_while_training():
    trunk = build_backbone("resnet38").train()
    assert [block.dropout for block in trunk.body if block.depth == 3] == [0.3, 0.5]
    block = trunk.body.b7
    for layer in block.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
    x = torch.rand(1, 2048, 2, 2)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_files_of_another_network_are_refused(state, tmp_path):
    lacking = {k: v for k, v in state.items() if k != "b4_5.conv_branch2a.weight"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(ValueError, match=r"1 are missing \(body.b4_5.conv1.weight\)"):
        build_backbone("resnet38", weights=tmp_path / "lacking.safetensors")
    save_file({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"ResNet-38.*1 are unknown \(layer1"):
        build_backbone("resnet38", weights=tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="released for MXNet"):
        build_backbone("resnet38", weights="imagenet")
    with pytest.raises(ValueError, match="stride is 16, expected 8"):
        build_backbone("resnet38", stride=16)


def test_reference_trains_convolutions_behind_the_second_block_alone():
    trunk = build_backbone("resnet38")
    recipe = PRESETS["reference"]
    groups = groups_of(trunk, [], recipe, norms=recipe["trains_norms"])
    trained = {id(p) for p in groups[0]["params"]}
    names = {name for name, p in trunk.named_parameters() if id(p) in trained}
    expected = {
        name
        for name, p in trunk.named_parameters()
        if p.ndim == 4 and not name.startswith(("stem.conv1a", "stem.b2"))
    }
    assert names == expected and len(names) == 35


@pytest.mark.slow
def test_sc_cam_fits_on_it_saves_and_loads(file, tmp_path):
    """Resumed to equal weights although blocks drop channels at random."""
    world = PaperWorld(4, split="train", size=32)
    options = {"weights": file, "n_subcategories": 2, "rounds": 1, "device": "cpu"}
    slowly = {"batch_size": 2, "learning_rate": 1e-8}  # random weights make huge features
    fit = {**slowly, "progress": False, "baseline": {**slowly, "epochs": 1}}
    whole = SCCAM("resnet38", **options, scales=(1.0,)).fit(world, epochs=2, **fit)
    again = SCCAM("resnet38", **options, scales=(1.0,))
    stop = {"after": 1}

    class Stopped(Exception):
        pass

    import wsss_kit.methods.sc_cam.method as module

    real = module.save_checkpoint

    def save_then_stop(*args, epoch, **kwargs):
        real(*args, epoch=epoch, **kwargs)
        if epoch == stop["after"]:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save_checkpoint", save_then_stop)
        with pytest.raises(Stopped):
            again.fit(world, epochs=2, checkpoint=tmp_path / "state", **fit)
    resumed = SCCAM("resnet38", **options, scales=(1.0,))
    resumed.fit(world, epochs=2, checkpoint=tmp_path / "state", **fit)
    assert torch.equal(whole.sub_head_, resumed.sub_head_)
    one, other = whole.backbone_.state_dict(), resumed.backbone_.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    loaded = SCCAM.load(whole.save(tmp_path / "fitted"))
    images = torch.stack([sample.image for sample in world])
    labels = torch.stack([sample.labels for sample in world])
    assert torch.equal(loaded(images, labels).cams, whole(images, labels).cams)
