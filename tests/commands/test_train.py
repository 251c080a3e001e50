"""The training command's last step: how many layers the affinity is made of, chosen on val."""

from __future__ import annotations

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


def test_the_best_number_of_layers_goes_into_the_card(tower, monkeypatch):
    monkeypatch.setattr(train, "score_attention_layers", lambda *_, **__: {1: 0.5, 2: 0.6, 4: 0.6})
    before, old = load_model(tower)
    assert train.write_attention_layers(tower, n_images=7) == tower
    after, card = load_model(tower)
    assert card["attention"]["layers"] == 2
    assert card["attention"]["mean_iou"] == {"1": 0.5, "2": 0.6, "4": 0.6}
    assert "val, 7 pictures" in card["attention"]["chosen_on"]
    assert {k: v for k, v in card.items() if k != "attention"} == old
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert load_clip("paper", weights=tower, device="cpu").attention_layers == 2


def test_every_number_of_layers_is_scored(tower):
    clip = load_clip("paper", weights=tower, device="cpu")
    scores = train.score_attention_layers(clip, n_images=2, shown=False)
    assert list(scores) == [1, 2, 3, 4]
    assert all(0 < value < 1 for value in scores.values())
    assert len({round(value, 6) for value in scores.values()}) > 1


@pytest.fixture
def towers(tmp_path):
    """Three cards that differ as if they had been trained, on weights that differ too."""
    tensors, card = load_model(TINY_CLIP)
    card.pop("chosen", None)
    paths = []
    for seed, (torn, scores) in enumerate(
        [(0.0, {"1": 0.61, "2": 0.6}), (0.35, {"1": 0.63, "2": 0.66}), (0.5, {"1": 0.64, "2": 0.5})]
    ):
        card["training"]["seed"], card["data"]["torn"] = seed, torn
        card["attention"] |= {"layers": int(max(scores, key=scores.get)), "mean_iou": scores}
        changed = {**tensors, "logit_scale": torch.tensor(float(seed))}
        paths.append(save_model(tmp_path / f"tower{seed}", changed, card))
    return paths


def test_the_best_tower_on_val_is_chosen_and_its_card_names_the_others(towers, tmp_path, capsys):
    out = tmp_path / "chosen"
    names = [str(path) for path in towers]
    assert main(["train", "choose-clip", "--candidates", *names, "--out", str(out)]) == 0
    tensors, card = load_model(out / "tiny_clip")
    assert tensors["logit_scale"] == 1 and card["attention"]["layers"] == 2
    among = card["chosen"]["among"]
    assert [(a["seed"], a["torn"], a["mean_iou"]) for a in among] == [
        (0, 0.0, 0.61),
        (1, 0.35, 0.66),
        (2, 0.5, 0.64),
    ]
    assert all(set(a["zero_shot"]) == {"cutouts", "out_of_context", "backgrounds"} for a in among)
    assert card["chosen"]["on"] == card["attention"]["chosen_on"]
    assert {k: v for k, v in card.items() if k != "chosen"} == load_model(towers[1])[1]
    assert load_clip("paper", weights=out / "tiny_clip", device="cpu").attention_layers == 2


def test_towers_that_cannot_be_compared_are_refused(towers, tower, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"tower\.safetensors was measured on nothing, expected"):
        train.choose_paper_clip([*towers, tower], tmp_path / "chosen")
    tensors, card = load_model(towers[2])
    card["attention"]["chosen_on"] = "a thousand pictures"
    save_model(towers[2], tensors, card)
    with pytest.raises(ValueError, match=r"tower2.* was measured on a thousand pictures"):
        train.choose_paper_clip(towers, tmp_path / "chosen")
    assert not (tmp_path / "chosen").exists()
    assert main(["train", "choose-clip", "--out", str(tmp_path / "chosen")]) == 2
    assert "no candidates given" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_card_repeats():
    card = load_model(TINY_CLIP)[1]["attention"]
    scores = train.score_attention_layers(load_clip("paper", device="cpu"), shown=False)
    assert {str(n): pytest.approx(v, abs=0.005) for n, v in scores.items()} == card["mean_iou"]


def test_the_command_line_passes_everything_on(tmp_path, monkeypatch):
    calls = []
    for name in ("train_paper_clip", "train_paper_trunk"):
        monkeypatch.setattr(
            train, name, lambda *a, **k: calls.append((a, k)) or tmp_path / "w.safetensors"
        )
    out = str(tmp_path)
    assert (
        main(["train", "paper-clip", "--out", out, "--torn", "0", "--steps", "5", "--seed", "2"])
        == 0
    )
    assert main(["train", "paper-clip", "--out", out]) == 0
    assert main(["train", "paper-trunk", "--out", out, "--teacher", f"{out}/t.safetensors"]) == 0
    asked, usual, trunk = (keywords for _, keywords in calls)
    assert (asked["torn"], asked["steps"], asked["seed"]) == (0.0, 5, 2)
    assert "torn" not in usual and "steps" not in usual
    assert trunk["teacher"] == tmp_path / "t.safetensors" and "torn" not in trunk
