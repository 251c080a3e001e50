"""The bench on the embedded world: every stage is timed, and what is printed is written."""

import json

import pytest
import torch

from wsss_kit.commands import bench
from wsss_kit.commands.bench import run_bench

STAGES = "decode resize tower gradient boxes affinity enlarge CRF encode all".split()


def test_every_stage_is_timed_and_written(tmp_path, capsys):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    options = {"model": "paper", "size": (40, 56), "rounds": 2, "device": "cpu"}
    times = run_bench(tmp_path, batch_size=3, **options)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert list(times) == STAGES and all(value > 0 for value in times.values())
    assert times["all"] == pytest.approx(sum(times[stage] for stage in STAGES[:-1]))
    card = json.loads((tmp_path / "bench.json").read_text("utf-8"))
    assert card["ms"] == times and card["size"] == [40, 56] and card["batch_size"] == 3
    assert "1 thread" in card["machine"] and torch.__version__ in card["machine"]
    assert card["peak_mb"] > 100 and "% of the rate" in card["notes"]["tower"]
    printed = capsys.readouterr().out
    for stage, value in times.items():
        assert f"{stage:<12}{value:>14.2f}{1000 / value:>18.1f}" in printed


def test_a_row_is_the_median_without_the_first_run(monkeypatch):
    clock, seconds = [0.0], iter([9.0, 1.0, 5.0, 2.0])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])

    def run():
        clock[0] += next(seconds)

    assert bench._seconds(run, 3, torch.device("cpu")) == 2.0
