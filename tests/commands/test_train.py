"""The training command's last step: what the affinity is made of and walks, chosen on val."""

from __future__ import annotations

import functools

import pytest
import torch

from wsss_kit.__main__ import main
from wsss_kit.clip import load_clip
from wsss_kit.commands import train
from wsss_kit.files import load_model, save_model
from wsss_kit.paperworld.tiny_clip import TINY_CLIP


@pytest.fixture
def tower(tmp_path):
    """The shipped tiny CLIP without what its card says of attention."""
    tensors, card = load_model(TINY_CLIP)
    del card["attention"]
    return save_model(tmp_path / "tower", tensors, card)


def test_the_best_affinity_goes_into_the_card(tower, monkeypatch):
    """By the mean of both figures: another has the best maps, a third the best with the CRF."""
    scores = {(0, 1): (0.5, 0.5), (0, 4): (0.5, 0.6), (1, 1): (0.55, 0.5), (1, 4): (0.3, 0.7)}
    monkeypatch.setattr(train, "score_affinity", lambda *_, **__: scores)
    before, old = load_model(tower)
    assert train.write_affinity(tower, n_images=7) == tower
    after, card = load_model(tower)
    assert (card["attention"]["layers"], card["attention"]["squarings"]) == (4, 0)
    assert card["attention"]["mean_iou"] == {
        f"squarings {s}, layers {n}": {"maps": maps, "crf": crf}
        for (s, n), (maps, crf) in scores.items()
    }
    assert "val, 7 images" in card["attention"]["chosen_on"]
    assert {k: v for k, v in card.items() if k != "attention"} == old
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    clip = load_clip("paper", weights=tower, device="cpu")
    assert (clip.attention_layers, clip.walk_squarings) == (4, 0)


def test_every_affinity_is_scored(tower):
    clip = load_clip("paper", weights=tower, device="cpu")
    scores = train.score_affinity(clip, n_images=2, shown=False)
    assert list(scores) == [(s, n) for s in (0, 1) for n in (1, 2, 3, 4)]
    for column in zip(*scores.values(), strict=True):
        assert all(0 < value < 1 for value in column)
        assert len({round(value, 6) for value in column}) > 2
    assert all(crf > maps for maps, crf in scores.values())


@pytest.fixture
def towers(tmp_path):
    """Three cards that differ as if they had been trained, on weights that differ too."""
    tensors, card = load_model(TINY_CLIP)
    card.pop("chosen", None)
    card["zero_shot"] |= {"cutouts": 0.98, "out_of_context": 1.0, "backgrounds": 0.94}
    paths = []
    for seed, (torn, scores) in enumerate(
        [(0.0, ((0.5, 0.7), (0.5, 0.6))), (0.35, ((0.4, 0.6), (0.6, 0.66))), (0.5, ((0.4, 0.7),))]
    ):
        card["training"]["seed"], card["data"]["torn"] = seed, torn
        rows = {
            f"squarings {s}, layers 3": {"maps": maps, "crf": crf}
            for s, (maps, crf) in enumerate(scores)
        }
        best = max(range(len(scores)), key=lambda s: sum(scores[s]))
        card["attention"] |= {"layers": 3, "squarings": best, "mean_iou": rows}
        changed = {**tensors, "logit_scale": torch.tensor(float(seed))}
        paths.append(save_model(tmp_path / f"tower{seed}", changed, card))
    return paths


def test_the_best_tower_on_val_is_chosen_and_its_card_names_the_others(towers, tmp_path, capsys):
    out = tmp_path / "chosen"
    names = [str(path) for path in towers]
    assert main(["train", "choose-clip", "--candidates", *names, "--out", str(out)]) == 0
    tensors, card = load_model(out / "tiny_clip")
    assert tensors["logit_scale"] == 1 and card["attention"]["squarings"] == 1
    among = card["chosen"]["among"]
    recorded = ("seed", "torn", "walk_squarings", "mean_iou")
    assert [tuple(a[key] for key in recorded) for a in among] == [
        (0, 0.0, 0, {"maps": 0.5, "crf": 0.7}),
        (1, 0.35, 1, {"maps": 0.6, "crf": 0.66}),
        (2, 0.5, 0, {"maps": 0.4, "crf": 0.7}),
    ]
    assert all(set(a["zero_shot"]) == {"cutouts", "out_of_context", "backgrounds"} for a in among)
    assert card["chosen"]["on"] == card["attention"]["chosen_on"]
    assert {k: v for k, v in card.items() if k != "chosen"} == load_model(towers[1])[1]
    assert load_clip("paper", weights=out / "tiny_clip", device="cpu").walk_squarings == 1


@pytest.mark.parametrize("test", ["cutouts", "out_of_context", "backgrounds"])
def test_a_tower_that_does_not_know_its_images_is_not_chosen(towers, tmp_path, test):
    for path, bad in zip((towers[1], towers[0], towers[2]), (1, 2, 3), strict=True):
        tensors, card = load_model(path)
        card["zero_shot"][test] = 0.93
        save_model(path, tensors, card)
        if bad < 3:
            chosen = load_model(train.choose_paper_clip(towers, tmp_path / f"{bad}"))[1]
            assert chosen["training"]["seed"] == (0, 2)[bad - 1]
            assert len(chosen["chosen"]["among"]) == 3
    with pytest.raises(ValueError, match=r"no candidate reaches cutouts 98 %.*train longer"):
        train.choose_paper_clip(towers, tmp_path / "none")


def test_towers_that_cannot_be_compared_are_refused(towers, tower, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"tower\.safetensors was measured on nothing, expected"):
        train.choose_paper_clip([*towers, tower], tmp_path / "chosen")
    tensors, card = load_model(towers[2])
    card["attention"]["chosen_on"] = "a thousand images"
    save_model(towers[2], tensors, card)
    with pytest.raises(ValueError, match=r"tower2.* was measured on a thousand images"):
        train.choose_paper_clip(towers, tmp_path / "chosen")
    assert not (tmp_path / "chosen").exists()
    assert main(["train", "choose-clip", "--out", str(tmp_path / "chosen")]) == 2
    assert "--candidates requires an argument" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_card_repeats():
    card = load_model(TINY_CLIP)[1]["attention"]
    scores = train.score_affinity(load_clip("paper", device="cpu"), shown=False)
    for (squarings, layers), score in scores.items():
        recorded = card["mean_iou"][f"squarings {squarings}, layers {layers}"]
        assert dict(zip(("maps", "crf"), score, strict=True)) == pytest.approx(recorded, abs=0.005)


def test_the_command_line_passes_everything_on(tmp_path, monkeypatch):
    calls = []
    for name in ("train_paper_clip", "train_paper_backbone"):
        recorded = functools.wraps(getattr(train, name))(
            lambda *a, **k: calls.append((a, k)) or tmp_path / "w.safetensors"
        )
        monkeypatch.setattr(train, name, recorded)
    out = str(tmp_path)
    assert (
        main(["train", "paper-clip", "--out", out, "--torn", "0", "--steps", "5", "--seed", "2"])
        == 0
    )
    assert main(["train", "paper-clip", "--out", out]) == 0
    assert main(["train", "paper-trunk", "--out", out, "--teacher", f"{out}/t.safetensors"]) == 0
    given, usual, backbone = (keywords for _, keywords in calls)
    assert (given["torn"], given["steps"], given["seed"]) == (0.0, 5, 2)
    assert "torn" not in usual and "steps" not in usual
    assert backbone["teacher"] == f"{out}/t.safetensors" and "torn" not in backbone
