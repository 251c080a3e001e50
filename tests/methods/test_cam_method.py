"""Plain CAM: training, maps, checkpoints and backbones of one's own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from wsss_kit import engine
from wsss_kit.classes import Sample
from wsss_kit.engine import Diverged, generator
from wsss_kit.files import load_model
from wsss_kit.methods.cam import CAM
from wsss_kit.paperworld import PaperWorld

QUICK = {"epochs": 3, "batch_size": 3, "learning_rate": 0.05, "progress": False}


class Own(nn.Module):
    """A backbone of one's own with batch normalisation, one cell every eight pixels."""

    out_channels = 6

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, images):
        return self.layers(images)


class Named(list):
    """Samples with class names."""

    classes = ("red", "green")


@pytest.fixture(scope="module")
def samples():
    """Eight images of red or green or both."""
    generator = torch.Generator().manual_seed(0)
    created = Named()
    for i in range(8):
        labels = torch.tensor([[1.0, 0], [0, 1], [1, 1]][i % 3])
        image = torch.rand(3, 32, 40, generator=generator) * 0.2
        image[0, 4:16] += 0.7 * labels[0]
        image[1, 16:28] += 0.7 * labels[1]
        created.append(Sample(f"{i}", image, labels))
    return created


def make(**options):
    return CAM(Own(), **{"preset": "clean", "scales": (1.0,), "flip": False, **options})


def state_of(method):
    return {"head": method.head_.detach(), **method.backbone_.state_dict()}


def assert_equal_states(one, other):
    one, other = state_of(one), state_of(other)
    assert set(one) == set(other)
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def batch_of(samples):
    images = torch.stack([sample.image for sample in samples])
    return images, torch.stack([sample.labels for sample in samples])


# -- training -------------------------------------------------------------------------------


def test_it_learns_red_from_green(samples):
    method = make().fit(samples, **{**QUICK, "epochs": 12})
    images, labels = batch_of(samples)
    assert ((method.predict(images) > 0) == labels.bool()).all()
    assert len(method.losses_) == 12 and method.losses_[-1] < method.losses_[0] < 1.5
    assert method.classes_ == ("red", "green")


def test_the_loss_of_a_head_is_the_multi_label_soft_margin(samples):
    """One epoch of one batch with a frozen backbone: loss and step by hand."""
    method = make(preset="reference")
    backbone = copy.deepcopy(method.backbone).eval()
    method.fit(
        samples, epochs=1, batch_size=8, learning_rate=0.1, train_backbone=False, progress=False
    )
    random = torch.Generator().manual_seed(0)
    start = torch.randn(2, 6, generator=random) * 0.01
    rows = torch.randperm(8, generator=generator(0, 0))
    mirrored = torch.randint(0, 2, (8,), generator=generator(0, 0, 0))[rows]
    head, total = start.clone().requires_grad_(), 0.0
    for row, mirror in zip(rows.tolist(), mirrored.tolist(), strict=True):
        image = samples[row].image.flip(-1) if mirror else samples[row].image
        logits = head @ backbone(image[None]).detach().mean((2, 3))[0]
        for logit, label in zip(logits, samples[row].labels, strict=True):
            p = 1 / (1 + torch.exp(-logit))
            total = total - (label * torch.log(p) + (1 - label) * torch.log(1 - p)) / 16
    total.backward()
    stepped = start - 0.1 * (head.grad + 1e-4 * start)  # first step: no momentum yet
    assert method.losses_ == pytest.approx([total.item()], rel=1e-4)
    torch.testing.assert_close(method.head_.detach(), stepped, atol=1e-6, rtol=1e-4)


def test_equal_seeds_give_equal_weights_and_others_do_not(samples):
    one, same, other = (make().fit(samples, **QUICK, seed=s) for s in (1, 1, 2))
    assert_equal_states(one, same)
    assert not torch.equal(one.head_, other.head_)


def test_a_frozen_backbone_is_left_untouched(samples):
    mine = Own().train()
    before = copy.deepcopy(mine.state_dict())
    method = CAM(mine, preset="clean").fit(samples, **QUICK, train_backbone=False)
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())  # statistics too
    assert all(p.grad is None for p in mine.parameters())
    assert method.backbone_ is mine
    trained = CAM(mine, preset="clean").fit(samples, **QUICK)
    assert any(not torch.equal(v, before[k]) for k, v in trained.backbone_.state_dict().items())


def test_the_reference_keeps_batch_normalisation_fixed(samples):
    for preset, fixed in (("reference", True), ("clean", False)):
        method = make(preset=preset).fit(samples, **{**QUICK, "learning_rate": 1e-3})
        norm, fresh = method.backbone_.layers[1], Own().layers[1]
        assert torch.equal(norm.running_mean, fresh.running_mean) == fixed


def test_an_own_module_is_never_moved_or_renamed(samples):
    mine = Own()
    keys, parameters = list(mine.state_dict()), [id(p) for p in mine.parameters()]
    attributes = set(vars(mine))
    method = CAM(mine, preset="clean").fit(samples, **QUICK)
    method(*batch_of(samples))
    assert method.backbone is method.backbone_ is mine
    assert list(mine.state_dict()) == keys and [id(p) for p in mine.parameters()] == parameters
    assert set(vars(mine)) == attributes
    assert all(p.device.type == "cpu" for p in mine.parameters())


def test_an_own_module_says_its_channels(samples):
    layer = nn.Conv2d(3, 6, 8, 8)
    with pytest.raises(ValueError, match="Sequential has no integer out_channels; set it"):
        CAM(nn.Sequential(layer)).fit(samples, **QUICK)


def test_images_of_different_sizes_need_a_crop(samples):
    mixed = Named([*samples[:3], Sample("odd", torch.rand(3, 40, 24), samples[0].labels)])
    with pytest.raises(ValueError, match="images of a batch differ in size; give fit a crop"):
        make().fit(mixed, **{**QUICK, "batch_size": 4})
    method = make().fit(mixed, **QUICK, crop=24, long_side=(24, 40))
    assert method(mixed[3].image[None], mixed[3].labels[None]).cams.shape == (1, 2, 10, 6)
    make().fit(mixed, **QUICK, train_backbone=False)  # one image at a time: any sizes


def test_no_samples():
    with pytest.raises(ValueError, match="samples is empty, expected at least one"):
        make().fit([], **QUICK)


def test_samples_without_class_names(samples):
    method = make().fit(list(samples), **{**QUICK, "epochs": 1})
    assert method.classes_ == ("class 1", "class 2")


# -- maps -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def method(samples):
    return make().fit(samples, **QUICK)


def test_the_mean_of_a_map_over_its_cells_is_the_logit(method, samples):
    images, _ = batch_of(samples)
    features = method.backbone_(images)
    maps = torch.einsum("bdhw,cd->bchw", features, method.head_)
    torch.testing.assert_close(method.predict(images), maps.mean((2, 3)).detach())


def test_maps_are_the_features_weighed_by_the_head(method, samples):
    images, labels = batch_of(samples)
    with torch.no_grad():
        features = method.backbone_(images)  # (B, D, 4, 5)
        literal = sum(
            features[:, d, None] * method.head_[None, :, d, None, None] for d in range(6)
        ).clamp_min(0)
    literal = nn.functional.interpolate(literal, size=(8, 10), mode="bilinear")
    literal = literal * labels[:, :, None, None]
    literal = literal / (literal.amax((2, 3), keepdim=True) + 1e-5)
    torch.testing.assert_close(method(images, labels).cams, literal, atol=1e-5, rtol=1e-4)


def test_scales_and_flip_of_the_preset_unless_given(samples, method):
    images, labels = batch_of(samples[:2])
    wide = copy.copy(method)
    wide.scales = wide.flip = None
    given = copy.copy(method)
    given.scales, given.flip = (1.0, 0.5, 1.5, 2.0), True
    assert torch.equal(wide(images, labels).cams, given(images, labels).cams)
    assert not torch.allclose(wide(images, labels).cams, method(images, labels).cams)


def test_with_mirror_images_maps_mirror_with_the_image(samples, method):
    images, labels = batch_of(samples[:2])
    both = copy.copy(method)
    both.flip = True
    there, back = both(images, labels).cams, both(images.flip(3), labels).cams
    torch.testing.assert_close(there, back.flip(3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "stride", "cells"),
    [
        ("paper", 4, (12, 10)),
        ("paper", 8, (6, 5)),
        ("paper", 16, (3, 3)),
        ("resnet18", 8, (6, 5)),
        ("resnet18", 16, (3, 3)),
    ],
)
def test_strides_of_named_backbones(backbone, stride, cells):
    world = PaperWorld(2, split="train", size=48)
    method = CAM(backbone, stride=stride, scales=(1.0,), flip=False, device="cpu")
    method.fit(world, epochs=1, batch_size=2, learning_rate=1e-3, progress=False)
    images = torch.stack([sample.image[:, :, :38] for sample in world])
    assert method.backbone_(images).shape[2:] == cells
    cams = method(images, torch.ones(2, 8)).cams
    assert cams.shape == (2, 8, 12, math.ceil(38 / 4)) and cams.isfinite().all()


def test_predict_before_fit(samples):
    with pytest.raises(RuntimeError, match="no classifier yet; call fit"):
        make().predict(samples[0].image[None])


# -- checkpoints ----------------------------------------------------------------------------


class Interrupted(Named):
    """Samples of which the given number can be read before the power fails."""

    def __init__(self, samples, reads):
        super().__init__(samples)
        self.reads = reads

    def __getitem__(self, index):
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_checkpoint_of_other_classes_is_refused_and_untouched(samples, tmp_path):
    make().fit(samples, **QUICK, checkpoint=tmp_path / "run")
    before = files_of(tmp_path)
    other = Named(samples)
    other.classes = ("red", "blue")
    with pytest.raises(ValueError, match="differ from class 1 on"):
        make().fit(other, **QUICK, checkpoint=tmp_path / "run")
    assert files_of(tmp_path) == before


def relabelled(samples):
    other = Named(samples)
    other[5] = other[5]._replace(labels=1 - other[5].labels)
    return other


def renamed(samples):
    other = Named(samples)
    other[5] = other[5]._replace(name="five")
    return other


def repainted(samples):
    return Named([samples[0]._replace(image=samples[0].image * 0.99), *samples[1:]])


def fewer(samples):
    return Named(samples[:-1])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 7}, "seed"),
        ({"learning_rate": 0.04}, "learning_rate"),
        ({"batch_size": 4}, "batch_size"),
        ({"crop": 16}, "crop"),
        ({"long_side": (16, 20), "crop": 16}, "crop"),
        ({"preset": "reference"}, "preset"),
        ({"data": fewer}, "pictures"),
        ({"data": relabelled}, "data"),
        ({"data": renamed}, "data"),
        ({"data": repainted}, "data"),
    ],
)
@pytest.mark.parametrize("epochs_done", [1, 3])
def test_a_checkpoint_of_another_run_is_refused_and_untouched(
    samples, tmp_path, change, key, epochs_done
):
    first = {**QUICK, "epochs": epochs_done}
    make().fit(samples, **first, checkpoint=tmp_path / "run")
    before = files_of(tmp_path)
    mine = ("data", "preset")
    data = change["data"](samples) if "data" in change else samples
    preset = change.get("preset", "clean")
    options = {**QUICK, **{k: v for k, v in change.items() if k not in mine}}
    with pytest.raises(ValueError, match=rf"a checkpoint of a run with {key} .* asks for .*same"):
        make(preset=preset).fit(data, **options, checkpoint=tmp_path / "run")
    assert files_of(tmp_path) == before


def test_only_epochs_may_be_more_and_never_fewer(samples, tmp_path):
    run = make().fit(samples, **QUICK, checkpoint=tmp_path / "run")
    longer = make().fit(samples, **{**QUICK, "epochs": 5}, checkpoint=tmp_path / "run")
    assert longer.losses_[:3] == pytest.approx(run.losses_) and len(longer.losses_) == 5
    with pytest.raises(ValueError, match=r"has done 5 epochs \(15 steps\), and 9 steps"):
        make().fit(samples, **QUICK, checkpoint=tmp_path / "run")


@pytest.mark.parametrize("bad", [math.nan, math.inf, 7.1])
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(samples, tmp_path, monkeypatch, bad):
    """Three steps an epoch; the loss begins at 0.7 and runs away in the second epoch."""
    losses = iter([0.7, 3.0, 6.9, bad, bad, bad])
    monkeypatch.setattr(
        engine, "total", lambda rows: torch.full_like(rows, next(losses)), raising=True
    )
    with pytest.raises(
        Diverged, match=r"CAM, epoch 2: its loss is \S+ and a sound one is 0.7; .* below 0.05"
    ):
        make().fit(samples, **QUICK, checkpoint=tmp_path / "run")
    assert len(load_model(tmp_path / "run")[1]["epochs"]) == 1


def test_pooled_features_belong_to_the_samples(samples):
    pooled = make().pool(samples, progress=False)
    quick = {**QUICK, "train_backbone": False}
    shared, mine = (make().fit(samples, **quick, pooled=x) for x in (pooled, None))
    assert_equal_states(shared, mine)
    for wrong in (pooled[:3], pooled[:, :1], pooled[..., :5], torch.cat([pooled, pooled])):
        with pytest.raises(ValueError, match=r"pooled has shape .*, expected \(8, 2, 6\) as pool"):
            make().fit(samples, **quick, pooled=wrong)
    with pytest.raises(ValueError, match="pooled features need train_backbone=False"):
        make().fit(samples, **QUICK, pooled=pooled)


def test_a_truncated_checkpoint_is_refused_and_untouched(samples, tmp_path):
    make().fit(samples, **QUICK, checkpoint=tmp_path / "run")
    path = tmp_path / "run.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match="truncated or changed"):
        make().fit(samples, **QUICK, checkpoint=tmp_path / "run")
    assert files_of(tmp_path) == before


# -- files ----------------------------------------------------------------------------------


def test_saved_and_loaded(samples, method, tmp_path):
    path = method.save(tmp_path / "cam")
    loaded = CAM.load(path, backbone=Own(), scales=(1.0,), flip=False, classes=("red", "green"))
    assert_equal_states(loaded, method)
    assert (loaded.classes_, loaded.losses_) == (method.classes_, method.losses_)
    assert loaded.preset == "clean" and not loaded.backbone_.training
    images, labels = batch_of(samples)
    assert torch.equal(loaded(images, labels).cams, method(images, labels).cams)


def test_loading_with_other_classes_or_another_backbone(method, tmp_path):
    path = method.save(tmp_path / "cam")
    with pytest.raises(ValueError, match="differ from class 0 on"):
        CAM.load(path, backbone=Own(), classes=("green", "red"))
    wider = Own()
    wider.layers.append(nn.Conv2d(6, 6, 1))
    with pytest.raises(ValueError, match="of another network or backbone"):
        CAM.load(path, backbone=wider)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated or changed"):
        CAM.load(path, backbone=Own())


def test_nothing_to_save_before_fit(tmp_path):
    with pytest.raises(RuntimeError, match="nothing to save yet; call fit"):
        make().save(tmp_path / "cam")
    assert not list(tmp_path.iterdir())
