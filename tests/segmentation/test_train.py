"""Training a segmenter: it learns what it is taught, stops and goes on, and refuses what is odd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsss_kit.crf import crf_of_present
from wsss_kit.engine import Diverged
from wsss_kit.evaluation import ConfusionMatrix
from wsss_kit.paperworld import PaperWorld
from wsss_kit.segmentation import PRESETS, Segmenter, train_segmenter
from wsss_kit.segmentation.networks import build_network


class Tiny(nn.Module):
    """Colours to classes, cell by cell."""

    def __init__(self, n_values=9):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, n_values, 1))

    def forward(self, images):
        return self.body(images)


class TinyBackbone(nn.Module):
    """A stem and a body at stride 8."""

    out_channels = 6

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.body = nn.Sequential(nn.Conv2d(4, 6, 2, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, images):
        return self.body(self.stem(images))


@pytest.fixture(scope="module")
def world():
    return PaperWorld(6, split="train")


FAST = {"epochs": 2, "batch_size": 2, "device": "cpu", "progress": False}


@torch.no_grad()
def iou(net, world):
    confusion = ConfusionMatrix(1 + len(world.classes))
    for sample in world:
        confusion.update(net.predict(sample.image[None])[0], world.masks[sample.name])
    return confusion.mean_iou()


def test_the_small_one_learns_two_images_by_heart(world):
    two = [world[i] for i in range(2)]
    masks = {s.name: world.masks[s.name] for s in two}
    options = {"epochs": 60, "batch_size": 2, "device": "cpu", "progress": False}
    net = train_segmenter(world, world.masks, **{**options, "epochs": 1})
    assert net.classes == world.classes
    net = train_segmenter(two, masks, **options)
    assert net.losses_[-1] < 0.1 * net.losses_[0] and len(net.losses_) == 60
    right = [(net.predict(s.image[None])[0] == masks[s.name]).float().mean().item() for s in two]
    assert min(right) > 0.95


def test_deeplab_learns_two_images_by_heart(world):
    two = [world[i] for i in range(2)]
    masks = {s.name: world.masks[s.name] for s in two}
    backbone = build_network("small", 9).trunk  # the paper backbone at stride 4
    net = train_segmenter(
        *(two, masks),
        **{"network": "deeplab_v2", "backbone": backbone, "loss": "balanced", "crop": 96},
        **{"scales": (1.0,), "batch_size": 2, "accumulate": 1, "iterations": 36},
        **{"learning_rate": 2e-3, "device": "cpu", "progress": False},
    )
    assert (net.network, net.backbone) == ("deeplab_v2", "PaperBackbone")
    right = [(net.predict(s.image[None])[0] == masks[s.name]).float().mean().item() for s in two]
    assert min(right) > 0.9 and net.losses_[-1] < 0.3 * net.losses_[0]


def test_pixels_of_255_teach_nothing(world):
    doubtful = {name: mask.masked_fill(mask > 0, 255) for name, mask in world.masks.items()}
    net = train_segmenter(world, doubtful, **{**FAST, "epochs": 6})
    result = torch.stack([net.predict(s.image[None])[0] for s in world])
    assert (result == 0).float().mean() > 0.99  # nothing but background was taught
    nothing = {name: torch.full_like(mask, 255) for name, mask in world.masks.items()}
    assert train_segmenter(world, nothing, **FAST).losses_ == [0.0, 0.0]


def test_deeplab_leaves_normalisation_and_its_head_is_faster(world):
    backbone = TinyBackbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    net = train_segmenter(
        *(world, world.masks),
        **{**FAST, "network": "deeplab_v2", "backbone": backbone, "crop": 64},
    )
    moved = {name for name, value in backbone.state_dict().items() if not value.equal(before[name])}
    assert moved == {"stem.weight", "stem.bias", "body.0.weight"}
    groups = net.parameter_groups()
    assert [group.get("lr_scale", 1) for group in groups] == [1, 10, 20]
    assert [group.get("weight_decay") for group in groups] == [None, None, 0]
    assert [branch.dilation for branch in net.net.branches] == [(r, r) for r in (6, 12, 18, 24)]
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = backbone.eval()(images)
        summed = sum(branch(features) for branch in net.net.branches)
        torch.testing.assert_close(net.net(images), summed)


def test_gradients_of_accumulated_batches_are_their_mean(world):
    options = {**FAST, "network": Tiny(), "epochs": None, "iterations": 1, "preset": "deeplab"}
    options |= {"crop": 96, "scales": (1.0,), "weight_decay": 0.0}
    one = train_segmenter(
        world, world.masks, **{**options, "batch_size": 6, "accumulate": 1, "network": Tiny()}
    )
    two = train_segmenter(
        world, world.masks, **{**options, "batch_size": 3, "accumulate": 2, "network": Tiny()}
    )
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    assert one.losses_ == pytest.approx(two.losses_, rel=1e-3)


def test_odd_masks_and_numbers_are_refused(world):
    with pytest.raises(ValueError, match="there is no mask for 'train_0_000000'; make a pseudo"):
        train_segmenter(world, {}, **FAST)
    nine = {name: torch.full_like(mask, 9) for name, mask in world.masks.items()}
    with pytest.raises(ValueError, match=r"the mask of .* holds 9, expected 0 to 8 or 255"):
        train_segmenter(world, nine, **FAST)
    for options, message in (
        ({"iterations": 3}, "epochs or iterations, not both"),
        ({"scales": (0.5, 1.0)}, r"crop is None and scales are \(0.5, 1.0\)"),
        ({"network": "unet"}, "network is 'unet', expected one of"),
        ({"preset": "psa"}, "preset is 'psa', expected one of"),
        ({"loss": "focal"}, "loss is 'focal', expected one of"),
        ({"network": Tiny(), "backbone": "paper"}, "belong to named networks"),
    ):
        with pytest.raises(ValueError, match=message):
            train_segmenter(world, world.masks, **{**FAST, **options})
    with pytest.raises(Diverged, match="diverged in segmenter, epoch 1"):
        train_segmenter(world, world.masks, **{**FAST, "network": Tiny(), "learning_rate": 1e12})


def test_weights_that_have_seen_pixel_labels_are_named(tmp_path):
    with pytest.warns(UserWarning, match=r"deeplabv1_resnet101-coco\.pth has learned from pixel"):
        with pytest.raises(FileNotFoundError):
            build_network("deeplab_v2", 21, weights=tmp_path / "deeplabv1_resnet101-coco.pth")


def test_presets_say_what_the_papers_say():
    assert PRESETS["clims_imagenet"]["loss"] == "balanced"
    assert PRESETS["clip_es_coco"]["learning_rate"] == 2.5e-5
    images = {
        n: p["batch_size"] * p["accumulate"] * (p["iterations"] or 0) for n, p in PRESETS.items()
    }
    assert images["deeplab"] == 200_000 and images["clims_imagenet"] == 600_000


def test_predictions_look_at_several_sizes_and_at_the_mirror_image(rng):
    net = Segmenter(Tiny(4), ("a", "b", "c"), network="Tiny").eval()
    torch.nn.init.normal_(net.net.body[2].weight, std=3)
    images = torch.rand(2, 3, 32, 48, generator=rng)
    with torch.no_grad():
        logits = net(images)
        mirrored = net(images.flip(-1)).flip(-1)
    both = (logits.softmax(1) + mirrored.softmax(1)) / 2
    torch.testing.assert_close(net.probs(images, flip=True), both)
    with torch.no_grad():  # the maximum is taken on the grid of the logits
        grid = torch.maximum(net.net(images), net.net(images.flip(-1)).flip(-1))
    largest = torch.nn.functional.interpolate(grid, size=(32, 48), mode="bilinear").softmax(1)
    torch.testing.assert_close(net.probs(images, flip=True, fuse="max"), largest)
    half = torch.nn.functional.interpolate(
        images, scale_factor=0.5, mode="bilinear", antialias=True
    )
    with torch.no_grad():
        small = torch.nn.functional.interpolate(net.net(half), size=(32, 48), mode="bilinear")
    mean = (logits.softmax(1) + small.softmax(1)) / 2
    torch.testing.assert_close(net.probs(images, scales=(1.0, 0.5)), mean)
    labels = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
    known = net.predict(images, labels)
    assert set(known[0].unique().tolist()) <= {0, 2} and set(known[1].unique().tolist()) <= {
        0,
        1,
        3,
    }
    assert torch.equal(net.predict(images), logits.argmax(1))
    refined = net.predict(images, crf={"iterations": 2})
    assert refined.shape == (2, 32, 48) and not torch.equal(refined, net.predict(images))
    both = net.predict(images, labels, crf={"iterations": 2})
    absent = net.probs(images) * torch.cat([torch.ones(2, 1), labels], 1)[:, :, None, None]
    present = crf_of_present(absent, images, labels, iterations=2)
    assert torch.equal(both, present.argmax(1)) and set(both[0].unique().tolist()) <= {0, 2}
    with pytest.raises(ValueError, match=r"labels has shape \(2, 2\), expected \(2, 3\)"):
        net.predict(images, labels[:, :2])
    with pytest.raises(ValueError, match="fuse is 'min', expected one of"):
        net.probs(images, fuse="min")


def test_saved_and_loaded_it_is_the_same(world, tmp_path):
    image = world[0].image[None]
    net = train_segmenter(world, world.masks, taught_by="ground truth", **FAST)
    net.save(tmp_path / "net")
    again = Segmenter.load(tmp_path / "net", device="cpu")
    assert torch.equal(again(image), net(image)) and again.losses_ == net.losses_
    assert (again.classes, again.taught_by) == (world.classes, "ground truth")
    mine = train_segmenter(world, world.masks, **{**FAST, "network": Tiny()})
    mine.save(tmp_path / "own")
    assert torch.equal(Segmenter.load(tmp_path / "own", net=Tiny())(image), mine(image))
    with pytest.raises(ValueError, match="network is 'Tiny', expected one of"):
        Segmenter.load(tmp_path / "own")
    with pytest.raises(ValueError, match="has the weights of another network"):
        Segmenter.load(tmp_path / "own", net=Tiny(5))
