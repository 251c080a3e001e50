"""Plain CAM: training, maps, checkpoints and backbones of one's own."""

import copy

import pytest
import torch
from torch import nn

from tests.trainings import Tiny
from wsss_kit import engine
from wsss_kit.classes import Sample
from wsss_kit.engine import Diverged, generator
from wsss_kit.files import load_model
from wsss_kit.methods.cam import CAM

QUICK = {"epochs": 3, "batch_size": 3, "learning_rate": 0.05, "progress": False}


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
    return CAM(Tiny(), **{"preset": "clean", "scales": (1.0,), "flip": False, **options})


# -- training -------------------------------------------------------------------------------


def test_it_learns_red_from_green(samples):
    method = make().fit(samples, **{**QUICK, "epochs": 12})
    images, labels = (torch.stack([sample[k] for sample in samples]) for k in (1, 2))
    assert ((method.predict(images) > 0) == labels.bool()).all()
    with torch.no_grad():
        means = method.backbone_(images).mean((2, 3))
    torch.testing.assert_close(method.predict(images), means @ method.head_.detach().T)
    assert len(method.losses_) == 12 and method.losses_[-1] < method.losses_[0] < 1.5
    assert method.classes_ == ("red", "green")


def test_the_loss_of_a_head_is_the_multi_label_soft_margin(samples):
    """One epoch of one batch with a frozen backbone: loss and step by hand."""
    method = make(preset="reference")
    backbone = copy.deepcopy(method.backbone).eval()
    method.fit(
        samples, epochs=1, batch_size=8, learning_rate=0.1, train_backbone=False, progress=False
    )
    start = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)) * 0.01
    mirrored = torch.randint(0, 2, (8,), generator=generator(0, 0, 0)).tolist()
    images = [s.image.flip(-1) if m else s.image for s, m in zip(samples, mirrored, strict=True)]
    with torch.no_grad():
        pooled = backbone(torch.stack(images)).mean((2, 3))
    head, labels = start.clone().requires_grad_(), torch.stack([s.labels for s in samples])
    total = nn.functional.multilabel_soft_margin_loss(pooled @ head.T, labels)
    total.backward()
    stepped = start - 0.1 * (head.grad + 1e-4 * start)  # first step: no momentum yet
    assert method.losses_ == pytest.approx([total.item()], rel=1e-4)
    torch.testing.assert_close(method.head_.detach(), stepped, atol=1e-6, rtol=1e-4)


def test_images_of_different_sizes_need_a_crop(samples):
    mixed = Named([*samples[:3], Sample("odd", torch.rand(3, 40, 24), samples[0].labels)])
    with pytest.raises(ValueError, match="images of a batch differ in size; give fit a crop"):
        make().fit(mixed, **{**QUICK, "batch_size": 4})
    method = make().fit(mixed, **QUICK, crop=24, long_side=(24, 40))
    assert method(mixed[3].image[None], mixed[3].labels[None]).cams.shape == (1, 2, 10, 6)
    make().fit(mixed, **QUICK, train_backbone=False)  # one image at a time: any sizes


# -- checkpoints ----------------------------------------------------------------------------


def test_only_epochs_may_be_more_and_never_fewer(samples, tmp_path):
    run = make().fit(samples, **QUICK, checkpoint=tmp_path / "run")
    longer = make().fit(samples, **{**QUICK, "epochs": 5}, checkpoint=tmp_path / "run")
    assert longer.losses_[:3] == pytest.approx(run.losses_) and len(longer.losses_) == 5
    with pytest.raises(ValueError, match=r"has done 5 epochs \(15 steps\), and 9 steps"):
        make().fit(samples, **QUICK, checkpoint=tmp_path / "run")


def test_pooled_features_belong_to_the_samples(samples):
    pooled = make().pool(samples, progress=False)
    quick = {**QUICK, "train_backbone": False}
    shared, mine = (make().fit(samples, **quick, pooled=x) for x in (pooled, None))
    torch.testing.assert_close(shared.state_dict(), mine.state_dict(), atol=0, rtol=0)
    for wrong in (pooled[:3], pooled[:, :1], pooled[..., :5], torch.cat([pooled, pooled])):
        with pytest.raises(ValueError, match=r"pooled has shape .*, expected \(8, 2, 6\) as pool"):
            make().fit(samples, **quick, pooled=wrong)
    with pytest.raises(ValueError, match="pooled features need train_backbone=False"):
        make().fit(samples, **QUICK, pooled=pooled)


# -- files ----------------------------------------------------------------------------------


def test_a_module_of_ones_own_is_trained_in_place_or_left_alone(samples):
    mine = Tiny().train()
    before, attributes = copy.deepcopy(mine.state_dict()), set(vars(mine))
    frozen = CAM(mine, preset="clean").fit(list(samples), **QUICK, train_backbone=False)
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())  # statistics too
    assert all(p.grad is None for p in mine.parameters())
    assert frozen.classes_ == ("class 1", "class 2")  # a plain list names none
    trained = CAM(mine, preset="clean").fit(samples, **QUICK)
    assert trained.backbone is trained.backbone_ is frozen.backbone_ is mine
    assert list(mine.state_dict()) == list(before) and set(vars(mine)) == attributes
    assert any(not torch.equal(v, before[k]) for k, v in mine.state_dict().items())


def test_a_checkpoint_of_another_run_is_refused_and_untouched(samples, tmp_path):
    make().fit(samples, **{**QUICK, "epochs": 1}, checkpoint=tmp_path / "run")
    path = tmp_path / "run.safetensors"
    before = path.read_bytes()
    other_classes = Named(samples)
    other_classes.classes = ("red", "blue")
    cases = [
        (samples, {"seed": 7}, "a run with seed .* asks for .*same"),
        (samples, {"learning_rate": 0.04}, "a run with learning_rate"),
        (samples, {"batch_size": 4}, "a run with batch_size"),
        (samples, {"crop": 16}, "a run with crop"),
        (samples, {"preset": "reference"}, "a run with preset"),
        (other_classes, {}, "differ from class 1 on"),
    ]
    for data, options, message in cases:
        options = {**QUICK, "preset": "clean", **options}
        with pytest.raises(ValueError, match=message):
            make(preset=options.pop("preset")).fit(data, **options, checkpoint=tmp_path / "run")
        assert path.read_bytes() == before


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(samples, tmp_path, monkeypatch):
    """Three steps an epoch; the loss begins at 0.7 and runs away in the second epoch."""
    losses = iter([0.7, 3.0, 6.9, 7.1, 7.1, 7.1])
    monkeypatch.setattr(engine, "total", lambda rows: torch.full_like(rows, next(losses)))
    with pytest.raises(
        Diverged, match=r"CAM, epoch 2: its loss is \S+ and a sound one is 0.7; .* below 0.05"
    ):
        make().fit(samples, **QUICK, checkpoint=tmp_path / "run")
    assert len(load_model(tmp_path / "run")[1]["epochs"]) == 1


def test_saved_and_loaded_with_a_module_of_ones_own(samples, tmp_path):
    method = make().fit(samples, **QUICK)
    path = method.save(tmp_path / "cam")
    loaded = CAM.load(path, backbone=Tiny(), scales=(1.0,), flip=False, classes=("red", "green"))
    torch.testing.assert_close(loaded.state_dict(), method.state_dict(), atol=0, rtol=0)
    assert (loaded.classes_, loaded.losses_) == (method.classes_, method.losses_)
    assert loaded.preset == "clean" and not loaded.backbone_.training
    wider = Tiny()
    wider.body.append(nn.Conv2d(6, 6, 1))
    for options, message in (
        ({"backbone": Tiny(), "classes": ("green", "red")}, "differ from class 0 on"),
        ({"backbone": wider}, "of another network or backbone"),
    ):
        with pytest.raises(ValueError, match=message):
            CAM.load(path, **options)
