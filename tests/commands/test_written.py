"""Masks on disk: written one by one, taken up again, never mixed with others."""

from __future__ import annotations

import pytest
import torch

from wsss_kit.commands.written import write_masks
from wsss_kit.data import LazySamples


def pictures(*names):
    return LazySamples(
        names,
        image=lambda name: torch.zeros(3, 2, 3),
        labels=lambda name: torch.ones(1),
        classes=("cow",),
    )


class Maker:
    """Masks that tell which picture they are of, and how often they were asked for."""

    def __init__(self, fails_at=None):
        self.asked, self.fails_at = [], fails_at

    def __call__(self, sample):
        if sample.name == self.fails_at:
            raise OSError(28, "No space left on device")
        self.asked.append(sample.name)
        return torch.tensor([[0, 1, 255], [0, 20, len(sample.name)]])


def test_masks_come_back_value_by_value(tmp_path):
    masks = write_masks(pictures("a", "dir/bc"), Maker(), tmp_path, made_by={}, shown=False)
    assert list(masks) == ["a", "dir/bc"]
    assert masks["dir/bc"].tolist() == [[0, 1, 255], [0, 20, 6]]
    assert masks["a"].dtype == torch.int64


def test_a_run_that_was_stopped_goes_on_with_what_is_left(tmp_path):
    with pytest.raises(OSError, match="No space"):
        stopped = Maker(fails_at="c")
        write_masks(pictures("a", "b", "c"), stopped, tmp_path, made_by={"x": 1}, shown=False)
    again = Maker()
    masks = write_masks(pictures("a", "b", "c"), again, tmp_path, made_by={"x": 1}, shown=False)
    assert stopped.asked == ["a", "b"] and again.asked == ["c"] and len(masks) == 3


def test_masks_of_another_making_are_not_mixed(tmp_path):
    write_masks(pictures("a"), Maker(), tmp_path, made_by={"rule": "0.3"}, shown=False)
    with pytest.raises(ValueError, match=r"made otherwise .*give --out another"):
        write_masks(pictures("a"), Maker(), tmp_path, made_by={"rule": "0.4"}, shown=False)


def test_a_name_stays_in_its_folder(tmp_path):
    with pytest.raises(ValueError, match=r"'\.\./a', expected a name that stays in its folder"):
        write_masks(pictures("../a"), Maker(), tmp_path / "in", made_by={}, shown=False)
    assert not (tmp_path / "a.png").exists()
