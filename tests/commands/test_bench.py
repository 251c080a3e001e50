"""The bench on the embedded world: what it prints is what it measured, and what it writes."""

from __future__ import annotations

import json

import pytest
import torch

from wsss_kit.commands import bench
from wsss_kit.commands.bench import run_bench


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    result = run_bench(folder, model="paper", size=(40, 56), rounds=2, device="cpu")
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    return folder, result


def test_every_comparison_is_there(rows):
    _, result = rows
    assert len(result) == 6 and all(name == row.what for name, row in result.items())
    for what in ("1 class", "3 classes", "5 classes"):
        row = result[f"image to refined maps, {what}"]
        assert float(row.note.split("difference ")[1].split(",")[0]) < 1e-4
    assert "image to refined maps, 3 classes, backbone in bfloat16 (LOSSY)" in result
    switched = result["embedded world, a word switched off, 2 classes"]
    edited = result["embedded world, a word edited, 2 classes"]
    assert switched.ours < edited.ours < 0.1
    assert switched.ratio > edited.ratio > 1


def test_what_is_written_is_what_was_printed(rows):
    folder, result = rows
    card = json.loads((folder / "bench.json").read_text("utf-8"))
    assert card["model"] == "paper" and card["size"] == [40, 56] and card["rounds"] == 2
    assert "1 thread" in card["machine"] and torch.__version__ in card["machine"]
    assert [row["what"] for row in card["rows"]] == list(result)
    assert all(row["ours"] > 0 and row["ratio"] > 0 for row in card["rows"])


def test_sides_take_turns_and_neighbours_are_compared(monkeypatch):
    """A machine that gets slower all the time changes both sides alike."""
    clock, order = [0.0], []

    def side(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds * (1 + len(order) // 2)
            return name

        return run

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    sides = side("a", 1), side("b", 3)
    comparison = bench._Comparison("x", *sides, lambda *results: f"{results[:2]}")
    row = bench._row(comparison, 4, torch.device("cpu"))
    assert order == ["a", "b"] * 5 and row.note == "('a', 'b')"
    # by hand, the first turn left out: 2, 3, 4, 5 seconds, and 9, 12, 15, 18
    assert (row.ours, row.other, row.ratio) == (3.5, 13.5, 3.875)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"threads": 1.5}, r"threads is 1\.5"),
        ({"size": (0, 4)}, r"size is \(0, 4\)"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"model": "none"}, "name is 'none'"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_bench(tmp_path, **arguments)
    assert not (tmp_path / "bench.json").exists()
