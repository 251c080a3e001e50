"""Augmentation, schedule, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch

from wsss_kit.classes import Sample
from wsss_kit.training import (
    augment,
    check_classes,
    classes_of,
    labels_of,
    load_model,
    polynomial_decay,
    progress,
    save_model,
    write_whole,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(height, width):
    """A picture in which every pixel is different, so that a crop shows where it was cut."""
    pixels = torch.arange(1, height * width + 1).float() / (height * width)
    return pixels.view(1, height, width).expand(3, -1, -1).clone()


# -- schedule -------------------------------------------------------------------------------


def rates(steps, **options):
    parameter = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([{"params": [parameter], "lr": 0.5}])
    schedule = polynomial_decay(optimiser, steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return [*seen, optimiser.param_groups[0]["lr"]]


def test_polynomial_decay_by_hand():
    expected = [0.5 * (1 - k / 4) ** 0.9 for k in range(5)]
    assert rates(4) == pytest.approx(expected)
    assert rates(4)[-1] == 0
    assert rates(2, power=1) == pytest.approx([0.5, 0.25, 0])


def test_warm_up_rises_linearly():
    expected = [0.5 * min(1, (k + 1) / 3) * (1 - k / 6) ** 0.9 for k in range(7)]
    assert rates(6, warmup=3) == pytest.approx(expected)


# -- augmentation ---------------------------------------------------------------------------


def windows(picture, height, width):
    """Every window of a picture and of its mirror image."""
    for view in (picture, picture.flip(-1)):
        for y in range(view.shape[1] - height + 1):
            for x in range(view.shape[2] - width + 1):
                yield view[:, y : y + height, x : x + width]


@pytest.mark.parametrize("size", [(9, 12), (12, 9), (8, 8)])
def test_a_crop_is_a_window_of_the_picture_or_of_its_mirror_image(size):
    picture = numbered(*size)
    possible = list(windows(picture, 8, 8))
    found = set()
    for seed in range(60):
        view = augment(picture, generator(seed), crop=8, long_side=None)
        places = [k for k, window in enumerate(possible) if torch.equal(view, window)]
        assert places
        found.update(places)
    assert len(found) == len(possible)  # corners too: no window is out of reach


@pytest.mark.parametrize("size", [(5, 12), (12, 5), (5, 6), (1, 1)])
def test_a_small_picture_is_padded_with_zeros(size):
    picture = numbered(*size)
    for seed in range(20):
        view = augment(picture, generator(seed), crop=8, long_side=None)
        assert view.shape == (3, 8, 8)
        rows, columns = view[0].nonzero().T
        seen = view[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        height, width = min(8, size[0]), min(8, size[1])
        assert seen.shape == (3, height, width)
        assert any(torch.equal(seen, window) for window in windows(picture, height, width))


def test_without_a_crop_a_picture_moves_by_at_most_a_tenth():
    picture = numbered(20, 30)
    mirrored = torch.nn.functional.pad(picture[None], (3, 3, 2, 2), mode="reflect")[0]
    possible = list(windows(mirrored, 20, 30))
    views = [augment(picture, generator(seed), crop=None, long_side=None) for seed in range(40)]
    assert all(any(torch.equal(view, window) for window in possible) for view in views)
    assert len({view.numpy().tobytes() for view in views}) > 20


@pytest.mark.parametrize("size", [(1, 1), (9, 200), (200, 9)])
def test_pictures_too_small_to_move_keep_their_size(size):
    assert augment(torch.rand(3, *size), generator(), crop=None, long_side=None).shape[1:] == size


def test_half_of_the_views_are_mirrored():
    picture = numbered(4, 4)
    flips = 0
    for seed in range(200):
        view = augment(picture, generator(seed), crop=4, long_side=None)
        assert torch.equal(view, picture) or torch.equal(view, picture.flip(-1))
        flips += torch.equal(view, picture.flip(-1))
    assert 70 <= flips <= 130  # four standard deviations around 100


def test_the_longer_side_is_resized_within_its_range():
    seen = set()
    for seed in range(60):
        view = augment(torch.ones(3, 20, 40), generator(seed), crop=64, long_side=(16, 24))
        height, width = (view[0] > 0).any(1).sum().item(), (view[0] > 0).any(0).sum().item()
        assert abs(height - width / 2) <= 0.5
        torch.testing.assert_close(view[view > 0], torch.ones(int((view > 0).sum())))
        seen.add(width)
    assert seen == set(range(16, 25))


def test_augmentation_is_seeded_and_leaves_its_picture_alone():
    picture = torch.rand(3, 40, 30, generator=generator())
    before = picture.clone()
    options = {"crop": 24, "long_side": (20, 60)}
    first, second = (augment(picture, generator(5), **options) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(picture, before)
    assert 0 <= first.min() and first.max() <= 1


# -- samples --------------------------------------------------------------------------------


def test_labels_and_classes_of_samples():
    samples = [
        Sample("a", torch.zeros(3, 2, 2), torch.tensor([0, 1])),
        Sample("b", torch.zeros(3, 4, 2), torch.tensor([1.0, 0.0])),
    ]
    labels = labels_of(samples)
    assert labels.dtype == torch.float32 and labels.tolist() == [[0, 1], [1, 0]]
    assert classes_of(samples) == ("class 1", "class 2")

    class Named(list):
        classes = ("cat", "dog")

    assert classes_of(Named(samples)) == ("cat", "dog")


@pytest.mark.parametrize("shown", [True, False])
def test_progress_passes_everything_on(shown, capsys):
    assert list(progress(iter("abc"), what="letters", shown=shown)) == ["a", "b", "c"]
    assert ("letters" in capsys.readouterr().err) == shown


# -- files ----------------------------------------------------------------------------------


def refuse(*_):
    raise OSError("no space left on device")


def test_write_whole_makes_folders_and_takes_text_or_bytes(tmp_path):
    path = write_whole(tmp_path / "a" / "b.txt", "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert write_whole(str(path), b"\x00\x01").read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "file.txt", "old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


def test_a_model_comes_back_as_it_was(tmp_path):
    shared = torch.rand(4, 4)
    tensors = {**TENSORS, "turned": shared.T, "shared": shared, "half": shared.half()}
    path = save_model(tmp_path / "model", tensors, {"classes": ["cat"]})
    found, card = load_model(path.with_suffix(""))
    assert path == tmp_path / "model.safetensors"
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    data = path.read_bytes()
    assert card["classes"] == ["cat"] and card["bytes"] == len(data)
    assert card["sha256"] == hashlib.sha256(data).hexdigest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_names_with_a_full_stop_do_not_collide(tmp_path):
    for rate in ("0.1", "0.2"):
        save_model(tmp_path / f"rate_{rate}", {"rate": torch.tensor(float(rate))}, {})
    for rate in ("0.1", "0.2"):
        tensors, _ = load_model(tmp_path / f"rate_{rate}")
        assert tensors["rate"].item() == pytest.approx(float(rate))


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
def test_half_of_a_pair_is_missing(tmp_path, ending):
    path = save_model(tmp_path / "model", TENSORS, {})
    path.with_suffix(ending).unlink()
    with pytest.raises(FileNotFoundError, match=rf"model\{ending} is missing; .*pair of files"):
        load_model(path)


def test_a_truncated_or_changed_model_is_refused(tmp_path):
    path = save_model(tmp_path / "model", TENSORS, {})
    whole = path.read_bytes()
    for broken in (whole[:-5], whole[:10], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"not the file that its card describes.*truncated"):
            load_model(path)
    path.write_bytes(whole)
    load_model(path)


@pytest.mark.parametrize("survives", [0, 1])
def test_a_crash_between_the_files_of_a_pair_leaves_a_pair(tmp_path, monkeypatch, survives):
    """Whichever rename the disk refuses, what can be read afterwards is one whole model."""
    path = save_model(tmp_path / "model", TENSORS, {"epoch": 1})
    replace, done = os.replace, []

    def replace_some(*names):
        if len(done) == survives:
            refuse()
        done.append(names)
        replace(*names)

    monkeypatch.setattr(os, "replace", replace_some)
    with pytest.raises(OSError, match="no space left"):
        save_model(path, {"a": torch.zeros(2, 3), "b": torch.tensor(0)}, {"epoch": 2})
    monkeypatch.undo()
    tensors, card = load_model(path)
    expected = TENSORS["a"] if card["epoch"] == 1 else torch.zeros(2, 3)
    assert torch.equal(tensors["a"], expected)


def test_a_card_is_plain_json(tmp_path):
    path = save_model(tmp_path / "model", TENSORS, {"losses": [0.5], "stride": None})
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (card["losses"], card["stride"]) == ([0.5], None)


@pytest.mark.parametrize(
    ("stored", "wanted", "place"),
    [
        (["cat", "dog"], ["cat", "cow"], 1),
        (["cat", "dog"], ["dog", "cat"], 0),
        (["cat", "dog"], ["cat"], 1),
        (["cat"], ["cat", "dog", "cow"], 1),
    ],
)
def test_another_class_list_is_refused(stored, wanted, place):
    with pytest.raises(ValueError, match=rf"run\.safetensors.*differ from class {place} on"):
        check_classes({"classes": stored}, wanted, "run.safetensors")
    check_classes({"classes": stored}, tuple(stored), "run.safetensors")
