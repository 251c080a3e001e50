"""AffinityNet: what it gives, that it learns, and that both ways to walk are one."""

import pytest
import torch
from torch import nn

from tests.trainings import Tiny
from wsss_kit.affinity import random_walk, transition_matrix
from wsss_kit.affinity_net import AffinityNet
from wsss_kit.affinity_net.neighbours import dense
from wsss_kit.cam import upsample
from wsss_kit.paperworld import PaperWorld

QUIET = {"progress": False}


@pytest.fixture
def net():
    return AffinityNet(Tiny(), radius=3, channels=6, seed=1, preset="clean").eval()


@pytest.fixture(scope="module")
def world():
    return PaperWorld(8, split="train")


@pytest.fixture(scope="module")
def seeds(world):
    """Labels to learn from: here the truth, with a stripe that nobody is sure of."""
    stripe = (torch.arange(96) >= 40) & (torch.arange(96) < 50)
    return {name: mask.masked_fill(stripe, 255) for name, mask in world.masks.items()}


def test_the_affinity_is_that_of_the_pairs(net, rng):
    """That it is symmetric and local is among the golden figures."""
    images = torch.rand(2, 3, 40, 56, generator=rng)
    affinity = net(images)
    assert affinity.shape == (2, 35, 35) and not affinity.requires_grad
    assert torch.equal(affinity, dense(net.between(images).detach(), net.offsets))


def test_both_ways_to_walk_are_one(net, rng, monkeypatch):
    images, scores = torch.rand(2, 3, 40, 56, generator=rng), torch.rand(2, 3, 9, 9, generator=rng)
    walk = transition_matrix(net(images), power=4, squarings=3)
    expected = random_walk(upsample(scores, (5, 7)), walk)
    for most in (10**9, 0):
        monkeypatch.setattr("wsss_kit.affinity_net._MOST_DENSE", most)
        result = net.walk(scores, images, power=4, squarings=3)
        assert torch.allclose(result, expected, atol=1e-5)


def test_it_learns_and_the_same_seed_learns_the_same(world, seeds):
    one, two = (
        AffinityNet(device="cpu", channels=16).fit(world, seeds, epochs=4, batch_size=4, **QUIET)
        for _ in range(2)
    )
    assert one.losses_ == two.losses_ and len(one.losses_) == 4
    assert one.losses_[-1] < 0.8 * one.losses_[0] and not one.training
    image = world[0].image[None]
    assert torch.equal(one(image), two(image))
    nothing = {name: torch.full_like(mask, 255) for name, mask in seeds.items()}
    net = AffinityNet(device="cpu", channels=4)
    with pytest.warns(UserWarning, match="every loss of AffinityNet was 0"):
        assert net.fit(world, nothing, epochs=1, **QUIET).losses_ == [0.0]


def test_a_frozen_backbone_stays_and_fixed_norms_keep_their_statistics(world, seeds):
    for trains, fixes in ((True, False), (True, True), (False, False)):
        net = AffinityNet(device="cpu", levels=2, channels=4)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        net.fit(world, seeds, train_backbone=trains, fixes_norms=fixes, epochs=1, **QUIET)
        moved = {name for name, value in net.state_dict().items() if not value.equal(before[name])}
        assert {n for n in before if n.startswith("project.")} <= moved
        assert bool({n for n in moved if n.startswith("trunk.")}) is trains
        assert bool({n for n in moved if "running" in n}) is (trains and not fixes)
        assert all(p.requires_grad for p in net.parameters()) and not net.training


def test_images_of_several_sizes_are_cropped_and_read_when_their_turn_comes(world, seeds):
    read = []

    class Counted(list):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    cut = Counted(world[i]._replace(image=world[i].image[:, : 60 + 9 * i]) for i in range(4))
    mine = {s.name: seeds[s.name][: s.image.shape[1]] for s in cut}
    net = AffinityNet(device="cpu", channels=8)
    with pytest.raises(ValueError, match="all images of one size; give a crop"):
        net.fit(cut, mine)
    read.clear()
    net.fit(cut, mine, epochs=3, crop=80, **QUIET)
    assert net.losses_[-1] < net.losses_[0]
    assert sorted(read[-12:]) == sorted([*range(4)] * 3)


def test_what_cannot_be_learned_from(world, seeds, net, tmp_path):
    small = {name: mask[:10] for name, mask in seeds.items()}
    for call, given, message in (
        (net.fit, (world, {}), "there is no seed for 'train_0_000000'"),
        (net.fit, (world, small), r"has 96x96 pixels and a seed of shape \(10, 96\)"),
        (net, (torch.zeros(3, 8, 8),), "images have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call(*given)

    def fit(labels=seeds, radius=5, **options):
        mine = AffinityNet(Tiny(), radius=radius, channels=6)
        mine.fit(world, labels, epochs=1, checkpoint=tmp_path / "run", **QUIET, **options)

    fit()
    other = {**seeds, world.names[0]: torch.zeros_like(seeds[world.names[0]])}
    for change, named in (({"labels": other}, "masks"), ({"radius": 4}, "radius 5")):
        with pytest.raises(ValueError, match=f"checkpoint of a run with {named}"):
            fit(**change)


def test_the_boundary_variant_learns_where_labels_change(world, seeds):
    net = AffinityNet(device="cpu", kind="boundary", levels=3, channels=16)
    world = world[:4]
    net.fit(world, seeds, epochs=25, batch_size=4, learning_rate=3e-3, **QUIET)
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
        AffinityNet(Tiny()).boundaries(sample.image[None])


@pytest.mark.parametrize("kind", ["features", "boundary"])
@pytest.mark.parametrize("backbone", [dict, lambda: {"backbone": Tiny()}])
def test_saved_and_loaded_it_is_the_same(world, seeds, tmp_path, kind, backbone):
    options = {"radius": 4, "channels": 5, "kind": kind, "device": "cpu", "preset": "clean"}
    net = AffinityNet(**backbone(), **options)
    with pytest.raises(RuntimeError, match="nothing to save yet"):
        net.save(tmp_path / "none")
    net.fit(world, seeds, epochs=1, **QUIET).save(tmp_path / "net")
    again = AffinityNet.load(tmp_path / "net", device="cpu", **backbone())
    image = world[0].image[None]
    assert torch.equal(again(image), net(image)) and again.losses_ == net.losses_
    assert (again.radius, again.kind, again.training, again.preset) == (4, kind, False, "clean")
    if backbone():
        with pytest.raises(ValueError, match="backbone is 'Tiny', expected one of"):
            AffinityNet.load(tmp_path / "net")
        wider = Tiny()
        wider.stem = nn.Conv2d(3, 4, 3, 4)
        with pytest.raises(ValueError, match="has the weights of another network"):
            AffinityNet.load(tmp_path / "net", backbone=wider)
