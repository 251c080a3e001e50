"""AffinityNet: what it gives, that it learns, and that both ways to walk are one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsss_kit.affinity import random_walk, transition_matrix
from wsss_kit.affinity_net import AffinityNet, network
from wsss_kit.affinity_net.neighbours import dense
from wsss_kit.cam import upsample
from wsss_kit.paperworld import PaperWorld


class TinyBackbone(nn.Module):
    """Five channels at stride 8, with the image's size in the cells' favour."""

    out_channels = 5

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 8, 8)

    def forward(self, images):
        return self.conv(images).relu()


class Other(TinyBackbone):
    """One channel more."""

    out_channels = 6


@pytest.fixture
def net():
    return AffinityNet(TinyBackbone(), radius=3, channels=6, seed=1, preset="clean")


@pytest.fixture(scope="module")
def world():
    return PaperWorld(8, split="train")


@pytest.fixture(scope="module")
def seeds(world):
    """Labels to learn from: here the truth, with a stripe that nobody is sure of."""
    result = {}
    for name in world.names:
        result[name] = world.masks[name].clone()
        result[name][:, 40:50] = 255
    return result


def test_the_affinity_is_symmetric_and_local(net, rng):
    images = torch.rand(2, 3, 40, 56, generator=rng)
    affinity = net(images)
    assert affinity.shape == (2, 35, 35) and not affinity.requires_grad
    assert torch.equal(affinity, affinity.mT) and affinity.min() >= 0 and affinity.max() == 1
    y, x = torch.arange(35) // 7, torch.arange(35) % 7
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < 9
    assert (affinity[:, ~near] == 0).all() and (affinity[:, near] > 0).all()
    assert torch.equal(affinity, dense(net.between(images).detach(), net.offsets))


def test_both_ways_to_walk_are_one(net, rng, monkeypatch):
    images, scores = torch.rand(2, 3, 40, 56, generator=rng), torch.rand(2, 3, 9, 9, generator=rng)
    walk = transition_matrix(net(images), power=4, squarings=3)
    expected = random_walk(upsample(scores, (5, 7)), walk)
    for most in (10**9, 0):
        monkeypatch.setattr(network, "_MOST_DENSE", most)
        result = net.walk(scores, images, power=4, squarings=3)
        assert torch.allclose(result, expected, atol=1e-5)


def test_it_learns_and_the_same_seed_learns_the_same(world, seeds):
    def fitted():
        net = AffinityNet(device="cpu", channels=16)
        return net.fit(world, seeds, epochs=4, batch_size=4, progress=False)

    one, two = fitted(), fitted()
    assert one.losses_ == two.losses_ and len(one.losses_) == 4
    assert one.losses_[-1] < 0.8 * one.losses_[0] and not one.training
    image = world[0].image[None]
    assert torch.equal(one(image), two(image))


def test_images_of_several_sizes_are_cropped(world, seeds):
    cut = [world[i]._replace(image=world[i].image[:, : 60 + 9 * i]) for i in range(4)]
    mine = {s.name: seeds[s.name][: s.image.shape[1]] for s in cut}
    net = AffinityNet(device="cpu", channels=8)
    with pytest.raises(ValueError, match="all images of one size; give a crop"):
        net.fit(cut, mine)
    net.fit(cut, mine, epochs=3, crop=80, progress=False)
    assert net.losses_[-1] < net.losses_[0]


def test_neutral_pixels_teach_nothing(world, seeds):
    nothing = {name: torch.full_like(mask, 255) for name, mask in seeds.items()}
    net = AffinityNet(device="cpu", channels=4)
    assert net.fit(world, nothing, epochs=1, progress=False).losses_ == [0.0]


def test_what_cannot_be_learned_from(world, seeds, net):
    with pytest.raises(ValueError, match=r"there is no seed for 'train_0_000000'"):
        net.fit(world, {})
    small = {name: mask[:10] for name, mask in seeds.items()}
    with pytest.raises(ValueError, match=r"has 96x96 pixels and a seed of shape \(10, 96\)"):
        net.fit(world, small)
    with pytest.raises(ValueError, match="samples is empty"):
        net.fit([], seeds)
    for option in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0}, {"weight_decay": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is .*expected"):
            net.fit(world, seeds, **option)
    with pytest.raises(ValueError, match=r"radius is 1, expected"):
        AffinityNet(TinyBackbone(), radius=1)
    with pytest.raises(ValueError, match="images have shape"):
        net(torch.zeros(3, 8, 8))


def test_the_boundary_variant_learns_where_labels_change(world, seeds):
    net = AffinityNet(device="cpu", kind="boundary", levels=3, channels=16)
    net.fit(world, seeds, epochs=25, batch_size=4, learning_rate=3e-3, progress=False)
    assert net.losses_[-1] < 0.7 * net.losses_[0]
    on, off = [], []
    for sample in world:
        edges = net.boundaries(sample.image[None])[0, 0]
        h, w = edges.shape
        cells = world.masks[sample.name][96 // h // 2 :: 96 // h, 96 // w // 2 :: 96 // w]
        change = torch.zeros(h, w, dtype=torch.bool)
        change[:, 1:] |= cells[:, 1:] != cells[:, :-1]
        change[1:] |= cells[1:] != cells[:-1]
        on.append(edges[change])
        off.append(edges[~change])
    assert torch.cat(on).mean() > torch.cat(off).mean() + 0.2
    assert torch.allclose(net.boundaries(sample.image[None].flip(-1)).flip(-1)[0, 0], edges)
    affinity = net(world[0].image[None])
    assert torch.equal(affinity, affinity.mT) and 0 <= affinity.min() <= affinity.max() == 1
    with pytest.raises(ValueError, match="kind is 'features', expected 'boundary'"):
        AffinityNet(TinyBackbone()).boundaries(sample.image[None])
    with pytest.raises(ValueError, match="kind is 'edges', expected"):
        AffinityNet(TinyBackbone(), kind="edges")


@pytest.mark.parametrize("kind", ["features", "boundary"])
def test_saved_and_loaded_it_is_the_same(world, seeds, tmp_path, kind):
    image = world[0].image[None]
    for backbone, options in ((None, {}), (TinyBackbone(), {"backbone": TinyBackbone()})):
        net = AffinityNet(backbone, radius=4, channels=5, kind=kind, device="cpu", preset="clean")
        with pytest.raises(RuntimeError, match="nothing to save yet"):
            net.save(tmp_path / "none")
        net.fit(world, seeds, epochs=1, progress=False).save(tmp_path / "net")
        again = AffinityNet.load(tmp_path / "net", device="cpu", **options)
        assert torch.equal(again(image), net(image)) and again.losses_ == net.losses_
        assert (again.radius, again.kind, again.training) == (4, kind, False)
        assert again.preset == "clean"
    with pytest.raises(ValueError, match="backbone is 'TinyBackbone', expected one of"):
        AffinityNet.load(tmp_path / "net")
    with pytest.raises(ValueError, match="has the weights of another network"):
        AffinityNet.load(tmp_path / "net", backbone=Other())
    (tmp_path / "net.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="truncated or changed"):
        AffinityNet.load(tmp_path / "net")
