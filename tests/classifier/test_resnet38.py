"""ResNet-38: weights from files, what is trained."""

import pytest
import torch
from safetensors.torch import save_file

from tests.classifier.resnet38_layout import released
from wsss_kit.backbones import build_backbone
from wsss_kit.methods.sc_cam import SCCAM
from wsss_kit.paperworld import PaperWorld


@pytest.fixture(scope="module")
def state():
    return released()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("resnet38") / "res38.safetensors"
    save_file(state, path)
    return path


@torch.no_grad()
def test_released_weights_are_taken_from_a_file(state, file):
    """What the levels are is among the golden figures."""
    backbone = build_backbone("resnet38", weights=file).eval()
    features = backbone(torch.rand(2, 3, 40, 33))
    assert features.shape == (2, 4096, 5, 5) and backbone.out_channels == 4096
    taken = {k: v for k, v in state.items() if "fc8" not in k}
    sums = sorted(value.sum().item() for value in taken.values())
    weights = {k: v for k, v in backbone.state_dict().items() if "num_batches" not in k}
    assert sorted(value.sum().item() for value in weights.values()) == sums


def test_blocks_six_and_seven_drop_channels_while_training():
    backbone = build_backbone("resnet38").train()
    assert [block.dropout for block in backbone.body if block.depth == 3] == [0.3, 0.5]
    block = backbone.body.b7
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
    save_file({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for options, message in (
        ({"weights": tmp_path / "lacking.safetensors"}, r"1 are missing \(body.b4_5.conv1"),
        ({"weights": tmp_path / "other.safetensors"}, r"ResNet-38.*1 are unknown \(layer1"),
        ({"weights": "imagenet"}, "released for MXNet"),
        ({"stride": 16}, "stride is 16, expected 8"),
    ):
        with pytest.raises(ValueError, match=message):
            build_backbone("resnet38", **options)


def test_reference_trains_convolutions_behind_the_second_block_alone():
    method = SCCAM("resnet38", device="cpu")
    method.build(PaperWorld.classes, 0)
    backbone, groups = method.backbone_, method.parameter_groups()
    trained = {id(p) for p in groups[0]["params"]}
    names = {name for name, p in backbone.named_parameters() if id(p) in trained}
    expected = {
        name
        for name, p in backbone.named_parameters()
        if p.ndim == 4 and not name.startswith(("stem.conv1a", "stem.b2"))
    }
    assert names == expected and len(names) == 35


@pytest.mark.slow
def test_sc_cam_fits_on_it_saves_and_loads(file, tmp_path):
    world = PaperWorld(4, split="train", size=32)
    options = {"weights": file, "n_subcategories": 2, "rounds": 1, "device": "cpu"}
    slowly = {"batch_size": 2, "learning_rate": 1e-8}  # random weights make huge features
    fit = {**slowly, "progress": False, "baseline": {**slowly, "epochs": 1}}
    whole = SCCAM("resnet38", **options, scales=(1.0,)).fit(world, epochs=2, **fit)
    loaded = SCCAM.load(whole.save(tmp_path / "fitted"))
    images = torch.stack([sample.image for sample in world])
    labels = torch.stack([sample.labels for sample in world])
    assert torch.equal(loaded(images, labels).cams, whole(images, labels).cams)
