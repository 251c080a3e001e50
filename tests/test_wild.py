"""Inputs from the wild: each kind is refused by its name or read right, and nothing old stays.

One test a kind, with its siblings as rows. The right value is asserted, not only that no error
came.
"""

import json
import os
import re
import runpy
import sys
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from torch import nn

from tests.commands.voc_layout import build_voc
from tests.trainings import Tiny
from wsss_kit import CAM, PaperWorld, Prompts, Segmenter, load_clip
from wsss_kit.__main__ import main
from wsss_kit.checkpoints import read_state
from wsss_kit.commands import PROTOCOL, masks_in
from wsss_kit.commands.generate import write_masks
from wsss_kit.data import load_folder, load_voc
from wsss_kit.evaluation import Protocol, evaluate
from wsss_kit.plot import show_cams
from wsss_kit.plot.canvas import png_bytes
from wsss_kit.processes import progress


@pytest.fixture
def mine(tmp_path):
    """A folder of three images of one's own, two classes."""
    root = tmp_path / "mine"
    root.mkdir()
    for number, name in enumerate("abc"):
        Image.new("RGB", (12, 10), (80 * number, 90, 60)).save(root / f"{name}.png")
    (root / "labels.csv").write_text("file,labels\na.png,cat\nb.png,dog\nc.png,cat\n")
    return root


def by_labels(images, labels):
    """Masks that depend on labels and on the images' brightness."""
    if (images.mean((1, 2, 3)) > 0.9).any():
        raise ValueError("too bright")
    return (1 + labels.argmax(1) + (images.mean((1, 2, 3)) > 0.4)).view(-1, 1, 1).repeat(1, 10, 12)


def make(mine, out, limit=None, **options):
    options = {"made_by": {}, "shown": False, **options}
    return write_masks(load_folder(mine)[:limit], by_labels, out, **options)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*/*.png")}


def relabel(mine, out):
    (mine / "labels.csv").write_text("file,labels\na.png,dog\nb.png,dog\nc.png,cat\n")


def another_image(mine, out):
    Image.new("RGB", (12, 10), "#c0c0c0").save(mine / "a.png")


DAMAGES = [
    relabel,
    another_image,
    lambda mine, out: (out / "masks" / "b.png").write_bytes(b""),
    lambda mine, out: (mine / "b.png").write_bytes(b"no image"),
]


@pytest.mark.parametrize("change", DAMAGES)
def test_a_mask_that_is_stale_or_damaged_is_made_anew(mine, tmp_path, change):
    make(mine, tmp_path / "out")
    change(mine, tmp_path / "out")
    make(mine, tmp_path / "out")
    make(mine, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_masks_of_other_weights_and_of_somebody_else_are_not_mixed(mine, tmp_path):
    make(mine, tmp_path / "out")
    with pytest.raises(ValueError, match=r"made otherwise .*give --out another"):
        make(mine, tmp_path / "out", batch_size=2)
    with pytest.raises(ValueError, match=r"made for 2 classes \(cat, dog\), not for 2; .* class 0"):
        masks_in(tmp_path / "out", load_folder(mine, classes=("dog", "cat")))
    Image.new("L", (12, 10)).save(tmp_path / "out" / "masks" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png was changed by others; move it away"):
        make(mine, tmp_path / "out")
    (tmp_path / "out" / PROTOCOL).unlink()  # now it may be anybody's ground truth
    with pytest.raises(ValueError, match="these masks are not from here; give --out another"):
        make(mine, tmp_path / "out")


def test_a_failure_is_tried_again_and_more_images_may_follow(mine, tmp_path):
    Image.new("RGB", (12, 10), "white").save(mine / "b.png")
    assert list(make(mine, tmp_path / "out", limit=2).failed) == ["b"]
    Image.new("RGB", (12, 10), "black").save(mine / "b.png")
    written = make(mine, tmp_path / "out")
    assert not written.failed and list(written.masks) == ["a", "b", "c"]
    assert written.masks["b"].unique().tolist() == [2]


def test_prompts_of_a_file_are_those_that_count(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Prompts.paper().replace(backgrounds=["grass"]).to_json("p.json")
    command = "masks clip-es --data paper --split val --limit 2 --device cpu --out"
    assert main(f"{command} a --prompts p.json".split()) == main(f"{command} b".split()) == 0
    assert contents(Path("a")) != contents(Path("b"))
    assert main(f"{command} a".split()) == 2
    assert "made otherwise" in capsys.readouterr().err


# -- masks and numbers ----------------------------------------------------------------------


def test_objects_drawn_as_255_are_noticed_and_255_is_stated():
    drawn = {"a": torch.tensor([[0, 255]])}
    protocol = Protocol("mine", "all")
    with pytest.warns(UserWarning, match="no target has a pixel of a class"):
        evaluate(drawn, drawn, classes=("cat",), protocol=protocol)
    truth = {"a": torch.tensor([[0, 1]])}
    report = evaluate(drawn, truth, classes=("cat",), protocol=protocol)
    assert "predicted 255: 50 % of the pixels, counted as background" in str(report)


def test_a_network_of_nan_fails():
    network = nn.Conv2d(3, 9, 1)
    nn.init.constant_(network.weight, float("nan"))
    segmenter = Segmenter(network, [f"class {n}" for n in range(8)], network="mine")
    with pytest.raises(ValueError, match="the segmenter computes holds NaN"):
        segmenter.predict(torch.rand(1, 3, 8, 8))


# -- names ----------------------------------------------------------------------------------


def test_dollars_and_foreign_letters_are_drawn(recwarn):
    names = ("$5_bill", "$\\frac$", "\u732b")
    samples = [PaperWorld(1)[0]._replace(name="from_$5_to_$9", labels=torch.ones(3))]
    figure = show_cams(samples, [torch.rand(3, 96, 96)], names, [torch.ones(3)])
    assert png_bytes(figure)[1:4] == b"PNG"
    said = [str(warning.message) for warning in recwarn]
    assert not [text for text in said if "missing from font" in text]
    assert len(said) <= 1 and all("install a font" in text for text in said)


# -- files that are not what they say ---------------------------------------------------------


SHAPES = [
    *[("protocol", text) for text in ("[1]", "", "{", "5", "\xff")],
    *[("manifest", text) for text in ("[1]", "", "{", "5", "\xff")],
    ("manifest", '{"pictures": 5, "failed": {}, "classes": []}'),
    ("manifest", '{"pictures": ["a"], "failed": ["b"], "classes": []}'),
    ("manifest", '{"pictures": [], "failed": {}, "classes": 3}'),
]


@pytest.mark.parametrize(("file", "text"), SHAPES)
def test_a_manifest_or_protocol_of_another_shape_is_named(file, text, mine, tmp_path, capsys):
    make(mine, tmp_path / "out")
    (tmp_path / "out" / f"{file}.json").write_text(text, encoding="latin-1")
    (mine / "masks").mkdir()
    Image.new("L", (12, 10), 1).save(mine / "masks" / "a.png")
    assert main(f"evaluate {tmp_path / 'out'} --data folder --root {mine}".split()) == 2
    problems = "is no card: .*; copy or save|holds .*, expected a JSON|has .*make (it|the file) "
    assert re.search(rf"{file}\.json ({problems})", capsys.readouterr().err)


@pytest.mark.parametrize("encoding", ["gb2312", "Shift_JIS"])
def test_annotations_in_other_encodings_are_read(encoding, tmp_path):
    voc = build_voc(tmp_path / "voc")
    xml = f'<?xml version="1.0" encoding="{encoding}"?><annotation xmlns="http://x"><folder>\u56f3'
    xml += "</folder><object><name>cat</name></object></annotation>"
    (voc / "Annotations" / "train_0.xml").write_bytes(xml.encode(encoding, "ignore"))
    samples = load_voc(voc, "train")
    assert samples.labels("train_0").nonzero().tolist() == [[samples.classes.index("cat")]]


# -- models from elsewhere --------------------------------------------------------------------


def test_openai_archives_are_read_and_the_activation_is_asked_about(tmp_path, caplog):
    """A small CLIP as OpenAI hands its own out: a TorchScript archive."""
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    for name, quick in (("mini", False), ("mini-quickgelu", True)):
        config = {"embed_dim": 16, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    model = open_clip.create_model("mini-quickgelu", None).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(tmp_path / "mini.pt"))
        torch.save(model.state_dict(), tmp_path / "state.pt")
    caplog.clear()
    clip = load_clip("mini-quickgelu", weights=tmp_path / "mini.pt")
    assert "randomly" not in caplog.text  # of open_clip, before the weights are in
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model.encode_image((images - clip.mean.cpu()) / clip.std.cpu())
    torch.testing.assert_close(clip.encode_image(images).cpu(), wanted, atol=1e-5, rtol=1e-4)
    deeper = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": {**vision, "layers": 3}}
    deep = open_clip.model.CLIP(**deeper, text_cfg=open_clip.model.CLIPTextCfg(**text)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(deep).save(str(tmp_path / "deep.pt"))
    with pytest.raises(ValueError, match="does not hold the weights of mini-quickgelu"):
        load_clip("mini-quickgelu", weights=tmp_path / "deep.pt")
    with pytest.raises(ValueError, match="OpenAI's weights need mini-quickgelu"):
        load_clip("mini", weights=tmp_path / "mini.pt")
    with pytest.warns(UserWarning, match="as OpenAI's, need mini-quickgelu"):
        load_clip("mini", weights=tmp_path / "state.pt")


def test_the_checkpoint_of_a_trainer_is_read_or_said_to_hold_more(tmp_path):
    state = {"module.a": torch.ones(2)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pth")
    assert list(read_state(tmp_path / "a.pth")) == ["a"]
    torch.save({"state_dict": state, "args": Path("x")}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"holds more than weights, .* save its state dict alone"):
        read_state(tmp_path / "b.pth")
    for held in ([torch.ones(1)], 5, {"state_dict": None}, torch.ones(2)):
        torch.save(held, tmp_path / "c.pth")
        with pytest.raises(ValueError, match=r"c\.pth holds .*, expected a state dict of tensors"):
            read_state(tmp_path / "c.pth")


class Odd(Tiny):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, images):
        return self.change(super().forward(images))


RETURNED = [
    (lambda y: (y, y), "tuple"),
    (lambda y: {"out": y}, "dict"),
    (lambda y: y.mean((2, 3)), r"Tensor of shape \(2, 6\)"),
    (lambda y: y.flatten(2).mT, r"Tensor of shape \(2, \d+, 6\)"),
    (lambda y: y[:, :5], r"Tensor of shape \(2, 5, \d+, \d+\)"),
]


@pytest.mark.parametrize(("change", "what"), RETURNED)
def test_a_backbone_that_returns_something_else_is_told_so(change, what):
    with pytest.raises(ValueError, match=rf"Odd returned {what}.* \(B, D, h, w\) with D = 6"):
        CAM(Odd(change), preset="clean").fit(PaperWorld(4), epochs=1, progress=False)


# -- training and surroundings ------------------------------------------------------------------


@pytest.mark.parametrize("stream", [None, open(os.devnull)])
def test_without_a_place_to_write_to_the_work_goes_on(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["check", "cats"]) == 2
    print("a message", file=sys.stderr, flush=True)
    assert list(progress([1, 2], what="a")) == [1, 2]


def test_stopped_while_it_imports(monkeypatch):
    class Stop:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "wsss_kit.commands.line", Stop())
    monkeypatch.delitem(sys.modules, "wsss_kit.__main__")
    with pytest.raises(SystemExit, match="130"):
        runpy.run_module("wsss_kit", run_name="__main__")
