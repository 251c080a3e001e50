"""The small backbone of the embedded world and what it learns from the tiny CLIP."""

import pytest
import torch

from wsss_kit.clip import load_clip
from wsss_kit.commands.train import _teacher, train_paper_backbone
from wsss_kit.files import load_model
from wsss_kit.paperworld.tiny_clip import paper_backbone

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


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_weights_fit_every_stride(trained, stride):
    backbone = paper_backbone(stride=stride, weights=trained)
    tensors, _ = load_model(trained)
    state = backbone.state_dict()
    assert set(state) == set(tensors)
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in tensors.items())
    assert backbone(torch.rand(1, 3, 64, 64)).shape == (1, 96, 64 // stride, 64 // stride)


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
