"""Training a segmenter: it learns what it is taught, stops and goes on, and refuses what is odd."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from tests.trainings import Tiny as TinyBackbone
from wsss_kit.crf import crf_of_present, dense_crf
from wsss_kit.engine import Diverged
from wsss_kit.paperworld import PaperWorld
from wsss_kit.segmentation import Segmenter, train_segmenter
from wsss_kit.segmentation.networks import build_network


class Tiny(nn.Module):
    """Colours to classes, cell by cell."""

    def __init__(self, n_values=9):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, n_values, 1))

    def forward(self, images):
        return self.body(images)


@pytest.fixture(scope="module")
def world():
    return PaperWorld(6, split="train")


FAST = {"epochs": 2, "batch_size": 2, "device": "cpu", "progress": False}


def test_it_learns_two_images_by_heart_and_nothing_from_255():
    two = PaperWorld(2, split="train", size=64)
    masks = dict(two.masks)
    options = {**FAST, "epochs": 60}
    net = train_segmenter(two, masks, **options)
    assert net.losses_[-1] < 0.1 * net.losses_[0] and len(net.losses_) == 60
    right = [(net.predict(s.image[None])[0] == masks[s.name]).float().mean().item() for s in two]
    assert min(right) > 0.95
    doubtful = {name: mask.masked_fill(mask > 0, 255) for name, mask in masks.items()}
    net = train_segmenter(two, doubtful, **{**options, "epochs": 6})
    result = torch.stack([net.predict(s.image[None])[0] for s in two])
    assert (result == 0).float().mean() > 0.99  # nothing but background was taught
    nothing = {name: torch.full_like(mask, 255) for name, mask in masks.items()}
    with pytest.warns(UserWarning, match="every loss of segmenter was 0"):
        assert train_segmenter(two, nothing, **FAST).losses_ == [0.0, 0.0]


def test_deeplab_leaves_normalisation_as_it_was(world):
    backbone = TinyBackbone().train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    options = {**FAST, "network": "deeplab_v2", "backbone": backbone, "crop": 64}
    train_segmenter(world, world.masks, **options)
    moved = {name for name, value in backbone.state_dict().items() if not value.equal(before[name])}
    assert moved == {"stem.weight", "stem.bias", "body.0.weight"}


def test_gradients_of_accumulated_batches_are_their_mean(world):
    options = {**FAST, "epochs": None, "iterations": 1, "preset": "deeplab", "weight_decay": 0.0}
    options |= {"crop": 96, "scales": (1.0,)}
    one, two = (
        train_segmenter(
            *(world, world.masks),
            **{**options, "network": Tiny(), "batch_size": 6 // parts, "accumulate": parts},
        )
        for parts in (1, 2)
    )
    torch.testing.assert_close(two.state_dict(), one.state_dict(), rtol=1e-3, atol=1e-6)
    assert one.losses_ == pytest.approx(two.losses_, rel=1e-3)


def test_odd_masks_and_options_are_refused(world, tmp_path):
    tiny = {"network": Tiny()}
    for masks, options, message in (
        (world.masks, {"iterations": 3}, "epochs or iterations, not both"),
        (world.masks, {"scales": (0.5, 1.0)}, r"crop is None and scales are \(0.5, 1.0\)"),
        (world.masks, {**tiny, "backbone": "paper"}, "belong to named networks"),
        (world.masks, {**tiny, "learning_rate": 1e12}, "diverged in segmenter, epoch 1"),
    ):
        with pytest.raises((ValueError, Diverged), match=message):
            train_segmenter(world, masks, **{**FAST, **options})
    coco = tmp_path / "deeplabv1_resnet101-coco.pth"
    learned = pytest.warns(UserWarning, match=r"resnet101-coco\.pth has learned from pixel")
    with learned, pytest.raises(FileNotFoundError):
        build_network("deeplab_v2", 21, weights=coco)


@torch.no_grad()
def test_predictions_look_at_several_sizes_and_at_the_mirror_image(rng):
    net = Segmenter(Tiny(4), ("a", "b", "c"), network="Tiny").eval()
    torch.nn.init.normal_(net.net.body[2].weight, std=3)
    images = torch.rand(2, 3, 32, 48, generator=rng)

    def full(maps):
        return interpolate(maps, size=(32, 48), mode="bilinear")

    logits = net(images)
    both = (logits.softmax(1) + net(images.flip(-1)).flip(-1).softmax(1)) / 2
    torch.testing.assert_close(net.probs(images, flip=True), both)
    # the maximum is taken on the grid of the logits
    largest = full(torch.maximum(net.net(images), net.net(images.flip(-1)).flip(-1))).softmax(1)
    torch.testing.assert_close(net.probs(images, flip=True, fuse="max"), largest)
    half = interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    mean = (logits.softmax(1) + full(net.net(half)).softmax(1)) / 2
    torch.testing.assert_close(net.probs(images, scales=(1.0, 0.5)), mean)

    labels = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
    present = logits.softmax(1) * torch.cat([torch.ones(2, 1), labels], 1)[:, :, None, None]
    assert torch.equal(net.predict(images), logits.argmax(1))
    assert torch.equal(net.predict(images, labels), present.argmax(1))
    refined = net.predict(images, crf={"iterations": 2})
    assert torch.equal(refined, dense_crf(logits.softmax(1), images, iterations=2).argmax(1))
    refined = net.predict(images, labels, crf={"iterations": 2})
    expected = crf_of_present(present, images, labels, iterations=2)
    assert torch.equal(refined, expected.argmax(1))
    with pytest.raises(ValueError, match=r"labels has shape \(2, 2\), expected \(2, 3\)"):
        net.predict(images, labels[:, :2])


def test_saved_and_loaded_it_is_the_same(world, tmp_path):
    image = world[0].image[None]
    net = train_segmenter(world, world.masks, taught_by="ground truth", **FAST)
    net.save(tmp_path / "net")
    again = Segmenter.load(tmp_path / "net", device="cpu")
    assert torch.equal(again(image), net(image)) and again.losses_ == net.losses_
    assert (again.classes, again.taught_by) == (world.classes, "ground truth")
    mine = train_segmenter(world, world.masks, **{**FAST, "network": Tiny()})
    mine.save(tmp_path / "own")
    loaded = Segmenter.load(tmp_path / "own", net=Tiny(), device="cpu")
    assert torch.equal(loaded(image), mine(image))
    for given, message in (
        ({}, "network is 'Tiny', expected one of"),
        ({"net": Tiny(5)}, "has the weights of another network"),
    ):
        with pytest.raises(ValueError, match=message):
            Segmenter.load(tmp_path / "own", **given)
