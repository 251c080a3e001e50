"""The small backbone of the embedded world and what it learns from the tiny CLIP."""

from __future__ import annotations

import pytest
import torch

from wsss_kit.backbones import build_backbone
from wsss_kit.clip import load_clip
from wsss_kit.commands.train import _teacher, train_paper_backbone
from wsss_kit.files import load_model
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.pretrain import Pretraining
from wsss_kit.paperworld.tiny_clip import PAPER_TRUNK, paper_backbone

SMALL = {"steps": 3, "batch": 4, "workers": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_paper_backbone(tmp_path_factory.mktemp("trunk"), **SMALL)


def test_equal_seeds_give_equal_weights(trained, tmp_path):
    same = load_model(train_paper_backbone(tmp_path / "same", **SMALL))[0]
    other = load_model(train_paper_backbone(tmp_path / "other", **SMALL, seed=1))[0]
    first, card = load_model(trained)
    assert all(torch.equal(tensor, same[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert (card["pictures"], card["data"]["split"]) == (12, "web")


def test_cards_say_how_much_was_torn(trained, tmp_path):
    """The backbone sees nothing torn, whoever teaches it; its teacher's own share is beside it."""
    run = Pretraining(tmp_path, steps=1, batch=2, workers=0, torn=0.9).run()
    card = load_model(
        train_paper_backbone(tmp_path / "trunk", teacher=run.export(tmp_path / "t", n=4), **SMALL)
    )[1]
    assert (card["data"]["torn"], card["teacher"]["torn"]) == (0.0, 0.9)
    shipped = load_model(PAPER_TRUNK)[1]
    assert (shipped["data"]["torn"], shipped["teacher"]["torn"]) == (0.0, 0.0)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_weights_fit_every_stride(trained, stride):
    backbone = paper_backbone(stride=stride, weights=trained)
    tensors, _ = load_model(trained)
    state = backbone.state_dict()
    assert set(state) == set(tensors)
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in tensors.items())
    assert backbone(torch.rand(1, 3, 64, 64)).shape == (1, 96, 64 // stride, 64 // stride)


def test_the_weights_in_the_package():
    """They have learned: a ridge on their features ranks images better than on random ones."""
    world = PaperWorld(240, split="web", seed=4, cooccurrence=0.0)
    images = torch.stack([sample.image for sample in world])
    labels = torch.stack([sample.labels for sample in world])
    result = {weights: area_under_curve(weights, images, labels) for weights in ("web", None)}
    assert result["web"] > 0.6
    assert result["web"] > result[None] + 0.05  # 0.11 to 0.20 for five seeds of the world


def area_under_curve(weights, images, labels):
    """Mean over classes of the share of pairs ranked rightly, on the second half."""
    backbone, half = build_backbone("paper", weights=weights).eval(), len(images) // 2
    with torch.no_grad():
        x = backbone(images).mean((2, 3))
    x = (x - x[:half].mean(0)) / (x[:half].std(0) + 1e-6)
    gram = x[:half].T @ x[:half] + 30 * torch.eye(x.shape[1])
    scores = x[half:] @ torch.linalg.solve(
        gram, x[:half].T @ (labels[:half] - labels[:half].mean(0))
    )
    truth, areas = labels[half:] == 1, []
    for c in range(labels.shape[1]):
        with_it, without = scores[truth[:, c], c], scores[~truth[:, c], c]
        areas.append((with_it[:, None] > without).float().mean())
    return torch.stack(areas).mean().item()


@torch.no_grad()
def test_the_teacher_shows_the_patches_of_the_tiny_clip():
    """Their mean over the cells is the embedding of the image, in their places."""
    patches_of, card = _teacher(None)
    clip, images = load_clip("paper", device="cpu"), torch.rand(2, 3, 96, 96)
    patches = patches_of(images)
    assert patches.shape == (2, card["architecture"]["embed_dim"], 12, 12)
    whole = clip.encode_image(images)
    torch.testing.assert_close(patches.mean((2, 3)), whole, atol=1e-4, rtol=1e-3)
    changed = images.clone()
    changed[:, :, :8, 88:] = 0  # the upper right cell; four blocks look at most 8 cells far
    moved = (patches_of(changed) - patches).abs().amax((0, 1))
    assert moved[0, 11] > 1e-3 and (moved[9:] == 0).all() and (moved[:, :3] == 0).all()
