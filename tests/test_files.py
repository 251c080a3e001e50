"""Files that are written whole or not at all, and pairs that belong together."""

import hashlib
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from wsss_kit.files import load_model, read_card, save_model, write_whole
from wsss_kit.plot import new_figure, save_figure
from wsss_kit.prompts import Prompts


def refuse(*_):
    raise OSError("no space left on device")


WRITES = {
    "text": write_whole,
    "figure": lambda path, text: save_figure(new_figure(1, 1, alt=text), path),
    "prompts": lambda path, text: Prompts(["a"], ["b"], template=f"{text} {{}}").to_json(path),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, write):
    path = tmp_path / "file.png"
    write(path, "old")
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        write(path, "new")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)}


def test_a_model_comes_back_as_it_was(tmp_path):
    shared = torch.rand(4, 4)
    tensors = {**TENSORS, "turned": shared.T, "shared": shared, "half": shared.half()}
    path = save_model(tmp_path / "model", tensors, {"classes": ["cat"]})
    result, card = load_model(path.with_suffix(""))
    assert path == tmp_path / "model.safetensors"
    assert set(result) == set(tensors)
    for name, tensor in tensors.items():
        assert result[name].dtype == tensor.dtype and torch.equal(result[name], tensor)
    assert card["classes"] == ["cat"] and len(card["sha256"]) == 64
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    with safe_open(path, "pt") as file:  # the library reads it too
        assert json.loads(file.metadata()["card"]) == card
        assert torch.equal(file.get_tensor("turned"), shared.T)


def test_names_with_a_full_stop_do_not_collide(tmp_path):
    for rate in ("0.1", "0.2"):
        save_model(tmp_path / f"rate_{rate}", {"rate": torch.tensor(float(rate))}, {})
    for rate in ("0.1", "0.2"):
        tensors, _ = load_model(tmp_path / f"rate_{rate}")
        assert tensors["rate"].item() == pytest.approx(float(rate))


def old_pair(folder, tensors, card):
    """What a version before 0.3 wrote."""
    data = save(tensors)
    card = {**card, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "old.safetensors").write_bytes(data)
    (folder / "old.json").write_text(json.dumps(card))
    return folder / "old.safetensors"


def test_a_pair_of_an_older_version_is_read(tmp_path):
    path = old_pair(tmp_path, TENSORS, {"classes": ["cat"]})
    tensors, card = load_model(path)
    assert card["classes"] == ["cat"] and torch.equal(tensors["a"], TENSORS["a"])
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata, and old\.json is missing"):
        load_model(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"old\.safetensors is missing; copy it"):
        load_model(path)
    with pytest.raises(FileNotFoundError, match=r"old\.json is missing"):
        read_card(tmp_path / "old.json")


@pytest.mark.parametrize("old", [False, True])
def test_a_truncated_or_changed_model_is_refused(tmp_path, old):
    path = old_pair(tmp_path, TENSORS, {}) if old else save_model(tmp_path / "m", TENSORS, {})
    whole = path.read_bytes()
    headers = ((2**63).to_bytes(8, "little") + b"{}", (4).to_bytes(8, "little") + b"xxxx")
    for broken in (whole[:-5], whole[:10], b"", whole[:-1] + bytes([whole[-1] ^ 1]), *headers):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="truncated or changed"):
            load_model(path)
    path.write_bytes(whole)
    load_model(path)
