"""The training command's last step: what the affinity is made of and walks, chosen on val."""

import pytest
import torch

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
