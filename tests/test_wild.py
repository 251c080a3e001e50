"""Inputs from the wild: each kind is refused by its name or read right, and nothing old stays.

One test a kind, with its siblings as rows. The right value is asserted, not only that no error
came.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn

from tests.commands.voc_layout import build_voc
from wsss_kit import CAM, CLIPES, AffinityNet, PaperWorld, Prompts, Segmenter, load_clip
from wsss_kit.__main__ import main
from wsss_kit.checkpoints import read_state
from wsss_kit.commands import load_function
from wsss_kit.commands.generate import PROTOCOL, masks_in, write_masks
from wsss_kit.data import load_coco, load_coco_masks, load_folder, load_voc
from wsss_kit.data.fetch import unpack
from wsss_kit.evaluation import Protocol, evaluate
from wsss_kit.files import load_model, save_model
from wsss_kit.methods.base import CAMMethod
from wsss_kit.plot import show_cams
from wsss_kit.plot.canvas import png_bytes
from wsss_kit.processes import place_in_run, progress
from wsss_kit.prompts.checks import checked_words


@pytest.fixture
def world():
    return PaperWorld(4, split="train")


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


def make(mine, out, weights="one", limit=None):
    return write_masks(
        load_folder(mine)[:limit], by_labels, out, made_by={"weights": weights}, shown=False
    )


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*/*.png")}


def relabel(mine, out):
    (mine / "labels.csv").write_text("file,labels\na.png,dog\nb.png,dog\nc.png,cat\n")


def another_image(mine, out):
    Image.new("RGB", (12, 10), "#c0c0c0").save(mine / "a.png")


@pytest.mark.parametrize(
    "change",
    [
        relabel,
        another_image,
        lambda mine, out: (out / "masks" / "b.png").write_bytes(b""),
        lambda mine, out: Image.new("L", (12, 10)).save(out / "masks" / "b.png"),
    ],
)
def test_a_mask_that_is_stale_or_damaged_is_made_anew(mine, tmp_path, change):
    make(mine, tmp_path / "out")
    change(mine, tmp_path / "out")
    make(mine, tmp_path / "out")
    make(mine, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_masks_of_other_weights_and_of_somebody_else_are_not_mixed(mine, tmp_path):
    make(mine, tmp_path / "out")
    with pytest.raises(ValueError, match="made otherwise"):
        make(mine, tmp_path / "out", weights="two")
    with pytest.raises(ValueError, match=r"made for 2 classes \(cat, dog\), not for 2; .* class 0"):
        masks_in(tmp_path / "out", ["a"], ("dog", "cat"))
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


@pytest.mark.parametrize(
    "options",
    [
        "clip-es --backbone f.py:f",
        "sc-cam --clip-weights nothere",
        "clims --prompts nothere.json",
        "clims --backbone f.py:f",
    ],
)
def test_an_option_that_means_nothing_is_refused(options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(f"masks {options} --data paper --limit 1 --out out".split()) == 2
    option = options.split()[1].removeprefix("--")
    assert f"takes no {option}; leave it out" in capsys.readouterr().err
    assert not Path("out").exists()


def test_prompts_of_a_file_are_those_that_count(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Prompts.paper().replace(backgrounds=["grass"]).to_json("p.json")
    command = "masks clip-es --data paper --split val --limit 2 --device cpu --out"
    assert main(f"{command} a --prompts p.json".split()) == main(f"{command} b".split()) == 0
    assert contents(Path("a")) != contents(Path("b"))
    assert main(f"{command} a".split()) == 2
    assert "made otherwise" in capsys.readouterr().err


# -- masks and numbers ----------------------------------------------------------------------


def test_objects_drawn_as_255_are_noticed_and_255_is_stated(capsys, mine):
    drawn = {"a": torch.tensor([[0, 255]])}
    protocol = Protocol("mine", "all")
    with pytest.warns(UserWarning, match="no target has a pixel of a class"):
        evaluate(drawn, drawn, classes=("cat",), protocol=protocol)
    truth = {"a": torch.tensor([[0, 1]])}
    report = evaluate(drawn, truth, classes=("cat",), protocol=protocol)
    assert "predicted 255: 50 % of the pixels, counted as background" in str(report)
    (mine / "masks").mkdir()
    for name in "abc":
        Image.fromarray(np.array([[0, 255] * 6] * 10, np.uint8)).save(
            mine / "masks" / f"{name}.png"
        )
    assert main(["check", "folder", "--root", str(mine)]) == 1
    assert "are objects drawn as 255?: 3" in capsys.readouterr().out


def test_a_network_of_nan_and_a_run_without_a_mask_fail(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = nn.Conv2d(3, 9, 1)
    nn.init.constant_(network.weight, float("nan"))
    segmenter = Segmenter(network, [f"class {n}" for n in range(8)], network="mine")
    with pytest.raises(ValueError, match="the segmenter computes holds NaN"):
        segmenter.predict(torch.rand(1, 3, 8, 8))
    samples, classes = load_folder(mine), ("cat", "dog")
    cam = CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")
    cam.fit(samples, train_backbone=False, epochs=1, crop=8, progress=False).save("cam")
    assert cam.classes_ == classes
    for file in mine.glob("*.png"):
        file.write_bytes(b"no image")
    assert main(f"masks cam --data folder --root {mine} --out out --device cpu".split()) == 1
    assert "holds 0 masks" in capsys.readouterr().out


OUTLINES = [
    [[None, 0, 2, 0, 2, 2]],
    [[0, 0, 1e300, 0, 5, 5]],
    [[0, 0, 9, 9]],
    [[0, 0, 9, 9, 3]],
    {"size": [400000, 400000], "counts": [1, 2]},
    {"size": [40, 40], "counts": [1, 2]},
    {"size": [40, 40], "counts": "13"},
    {"size": [40, 40], "counts": [-1, 1601]},
    None,
]


def coco(root, outline, **changed):
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    Image.new("RGB", (40, 40)).save(root / "val2014" / "a.jpg")
    entry = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": outline}
    listed = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [entry]}
    listed |= {"categories": [{"id": 1, "name": "person"}], **changed}
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(listed))


@pytest.mark.parametrize("outline", OUTLINES, ids=str)
def test_a_broken_outline_of_coco_is_named(outline, tmp_path):
    coco(tmp_path, outline)
    with pytest.raises(ValueError, match=r"annotation 7 of a has no outline .* run lengths"):
        load_coco_masks(tmp_path, "val")["a"]


def test_coco_without_areas_and_sizes_draws_what_the_outline_says(tmp_path):
    from pycocotools import mask as pycoco

    square = np.zeros((40, 40), np.uint8, order="F")
    square[5:15, 10:30] = 1
    run = pycoco.encode(square)["counts"].decode()
    for number, outline in enumerate(
        ({"size": [40, 40], "counts": run}, [[10, 5, 30, 5, 30, 15, 10, 15]])
    ):
        coco(tmp_path / str(number), outline)
        assert torch.equal(
            load_coco_masks(tmp_path / str(number), "val")["a"], torch.from_numpy(square).long()
        )


@pytest.mark.parametrize(
    "changed", [{"images": 5}, {"annotations": {}}, {"categories": None}, {"images": [{"id": 1}]}]
)
def test_coco_of_other_types_is_named(changed, tmp_path):
    coco(tmp_path, [[1, 1, 5, 5, 1, 5]], **changed)
    with pytest.raises(ValueError, match=f"instances_val2014.json has .*{next(iter(changed))}"):
        load_coco(tmp_path, "val")


# -- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["caf\u00e9", "cafe\u0301"], "written alike"),
        (["cat", "c\u0430t"], "written alike"),
        (["\uff43at", "cat"], "written alike"),
        (["cat\u200b"], r"U\+200B \(ZERO WIDTH SPACE\)"),
        (["polar\u00a0bear"], r"U\+00A0 \(NO-BREAK SPACE\)"),
    ],
)
def test_names_that_look_alike_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        checked_words(words, "classes")
    assert checked_words(["cat", "caf\u00e9", "\u732b"], "classes")[1] == "caf\u00e9"


@pytest.mark.parametrize("mark", "\uff1b\u3001\uff0c\u061b\uff0f\uff5c\u060c")
def test_marks_of_other_keyboards_are_noticed(mark, mine):
    (mine / "labels.csv").write_text(f"file,labels\na.png,cat{mark}dog\n", encoding="utf-8")
    with pytest.raises(ValueError, match="looks like several classes"):
        load_folder(mine)


def test_a_list_of_voc_with_spaces_in_names_reads_these_images(tmp_path):
    voc = build_voc(tmp_path / "voc")
    for part, end in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (voc / part / f"train_0.{end}").rename(voc / part / f"train 0.{end}")
    (voc / "ImageSets/Segmentation/train.txt").write_text("train 0\ntrain_1  1\n")
    assert load_voc(voc, "train").names == ("train 0", "train_1")


def test_dollars_and_foreign_letters_are_drawn(recwarn):
    names = ("$5_bill", "$\\frac$", "\u732b")
    samples = [PaperWorld(1)[0]._replace(name="from_$5_to_$9", labels=torch.ones(3))]
    figure = show_cams(samples, [torch.rand(3, 96, 96)], names, [torch.ones(3)])
    assert png_bytes(figure)[1:4] == b"PNG"
    said = [str(warning.message) for warning in recwarn]
    assert not [text for text in said if "missing from font" in text]
    assert len(said) <= 1 and all("install a font" in text for text in said)


def test_own_images_that_share_a_stem_are_hidden_or_damaged(tmp_path, capsys):
    for file in ("a.jpg", "a.png", "b.png"):
        Image.new("RGB", (48, 40)).save(tmp_path / file)
    (tmp_path / "._b.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "c.png").write_bytes(b"no image")
    out = tmp_path / "out"
    command = f"demo --pictures {tmp_path} --classes cow,cat --clip paper --out {out}"
    assert main(command.split()) == 0
    said = capsys.readouterr().out
    assert "shows 3 images" in said and "c cannot be read" in said and "._b" not in said


def test_a_name_of_245_letters_and_one_that_is_too_long(tmp_path):
    name = "x" * 245
    Image.new("RGB", (12, 10)).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text(f"file,labels\n{name}.png,cat\n")
    written = write_masks(
        load_folder(tmp_path), by_labels, tmp_path / "out", made_by={}, shown=False
    )
    assert list(written.masks) == [name] and not written.failed


# -- files that are not what they say ---------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text"),
    [
        *[(file, text) for file in ("manifest", "protocol") for text in ("[]", "", "{", "5")],
        ("manifest", '{"pictures": []}'),
        ("manifest", '{"pictures": 5, "failed": {}, "classes": []}'),
        ("manifest", '{"pictures": ["a"], "failed": ["b"], "classes": []}'),
        ("manifest", '{"pictures": [], "failed": {}, "classes": 3}'),
    ],
)
def test_a_manifest_or_protocol_of_another_shape_is_named(file, text, mine, tmp_path, capsys):
    make(mine, tmp_path / "out")
    (tmp_path / "out" / f"{file}.json").write_text(text)
    (mine / "masks").mkdir()
    Image.new("L", (12, 10), 1).save(mine / "masks" / "a.png")
    assert main(f"evaluate {tmp_path / 'out'} --data folder --root {mine}".split()) == 2
    assert f"{file}.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "declared", "right"),
    [("gb2312", "gb2312", True), ("shift_jis", "Shift_JIS", True), ("utf-8", "klingon", False)],
)
def test_annotations_in_other_encodings_are_read_or_named(encoding, declared, right, tmp_path):
    voc = build_voc(tmp_path / "voc")
    xml = f'<?xml version="1.0" encoding="{declared}"?><annotation xmlns="http://x"><folder>\u56f3'
    xml += "</folder><object><name>cat</name></object></annotation>"
    (voc / "Annotations" / "train_0.xml").write_bytes(xml.encode(encoding, "ignore"))
    samples = load_voc(voc, "train")
    if right:
        assert samples.labels("train_0").nonzero().flatten().tolist() == [
            samples.classes.index("cat")
        ]
    else:
        with pytest.raises(ValueError, match=r"train_0\.xml is no whole XML"):
            samples.labels("train_0")


def test_lists_and_tables_in_other_encodings_are_read_or_named(mine, tmp_path):
    voc = build_voc(tmp_path / "voc")
    file = voc / "ImageSets/Segmentation/train.txt"
    file.write_bytes("train_0\ntrain_1\n".encode("utf-16"))
    assert load_voc(voc, "train").names == ("train_0", "train_1")
    file.write_bytes("\u00e9t\u00e9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"train\.txt is not UTF-8"):
        load_voc(voc, "train")
    (mine / "labels.csv").write_text('file,labels\na.png,"cat\n' + "b.png,dog\n" * 20000)
    with pytest.raises(ValueError, match=r"labels\.csv line \d+ is no row .* quote"):
        load_folder(mine)


def test_archives_that_are_damaged(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a", os.urandom(10) + b"a" * 5000)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[31:43] = b"\xff" * 12
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises((ValueError, zlib.error), match="no whole tar or zip") as raised:
        unpack(tmp_path / "a.zip", tmp_path / "to", shown=False)
    assert raised.type is ValueError


def test_a_log_in_page_is_not_kept_as_the_archive(tmp_path, capsys):
    name = "annotations_trainval2014.zip"
    for source, content in (("bad", b"<html>please log in</html>"), ("good", None)):
        (tmp_path / source).mkdir()
        with zipfile.ZipFile(tmp_path / source / name, "w") as packed:
            packed.writestr("annotations/x.json", "{}")
        if content:
            (tmp_path / source / name).write_bytes(content)
        command = f"download coco --out {tmp_path / 'coco'} --from {tmp_path / source}"
        assert main(command.split()) == 2  # the next archive is not there
    assert (tmp_path / "coco" / "annotations" / "x.json").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    "changed", [{"classes": None}, {"classes": 3}, {"classes": [1]}, {"losses": 5}, {"backbone": 3}]
)
def test_a_card_of_other_types_is_named(changed, mine, tmp_path):
    cam = CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")
    cam.fit(load_folder(mine), train_backbone=False, epochs=1, crop=8, progress=False)
    tensors, card = load_model(cam.save(tmp_path / "cam"))
    save_model(tmp_path / "cam", tensors, {**card, **changed})
    with pytest.raises(ValueError, match=f"the card of .*cam has {next(iter(changed))} .*expected"):
        CAM.load(tmp_path / "cam")


@pytest.mark.parametrize(
    "data", [b"", (2**63).to_bytes(8, "little") + b"{}", (4).to_bytes(8, "little") + b"xxxx"]
)
def test_a_file_that_is_no_safetensors_is_named(data, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_model(tmp_path / "a")


def test_a_radius_of_a_million_is_refused():
    with pytest.raises(ValueError, match="radius is 1000000, expected at most 64"):
        AffinityNet("paper", weights="web", device="cpu", radius=10**6)


# -- models from elsewhere --------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small CLIP as OpenAI hands its own out: a TorchScript archive; and the model itself."""
    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    for name, quick in (("mini", False), ("mini-quickgelu", True)):
        config = {"embed_dim": 16, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    model = open_clip.create_model("mini-quickgelu", None).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(folder / "mini.pt"))
        torch.save(model.state_dict(), folder / "state.pt")
    return folder, model


def test_openai_archives_are_read_and_the_activation_is_asked_about(archive):
    folder, model = archive
    clip, images = load_clip("mini-quickgelu", weights=folder / "mini.pt"), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model.encode_image((images - clip.mean.cpu()) / clip.std.cpu())
    torch.testing.assert_close(clip.encode_image(images).cpu(), wanted, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="OpenAI's weights need mini-quickgelu"):
        load_clip("mini", weights=folder / "mini.pt")
    with pytest.warns(UserWarning, match="as OpenAI's, need mini-quickgelu"):
        load_clip("mini", weights=folder / "state.pt")


def test_the_checkpoint_of_a_trainer_is_read_or_said_to_hold_more(tmp_path):
    state = {"module.a": torch.ones(2)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pth")
    assert list(read_state(tmp_path / "a.pth")) == ["a"]
    torch.save({"state_dict": state, "args": Path("x")}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"holds more than weights, .* save its state dict alone"):
        read_state(tmp_path / "b.pth")


class Odd(nn.Module):
    out_channels = 16

    def __init__(self, change):
        super().__init__()
        self.change, self.convolution = change, nn.Conv2d(3, 16, 3, stride=8, padding=1)

    def forward(self, images):
        return self.change(self.convolution(images))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda y: (y, y), "tuple"),
        (lambda y: {"out": y}, "dict"),
        (lambda y: y.mean((2, 3)), r"Tensor of shape \(1, 16\)"),
        (lambda y: y.flatten(2).mT, r"Tensor of shape \(1, 64, 16\)"),
        (lambda y: y[:, :7], r"Tensor of shape \(1, 7, 8, 8\)"),
    ],
)
def test_a_backbone_that_returns_something_else_is_told_so(change, what, world):
    with pytest.raises(ValueError, match=rf"Odd returned {what}.* \(B, D, h, w\) with D = 16"):
        CAM(Odd(change), preset="clean").fit(world, epochs=1, progress=False)


def test_a_backbone_file_may_have_dataclasses_and_neighbours(tmp_path):
    (tmp_path / "beside.py").write_text("channels = 5\n")
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from torch import nn\nimport beside\n\n@dataclass\nclass Options:\n    channels: int\n\n"
        "def build():\n    return nn.Conv2d(3, Options(beside.channels).channels, 1)\n"
    )
    assert load_function(f"{tmp_path / 'own.py'}:build").out_channels == 5


# -- training and surroundings ------------------------------------------------------------------


def test_inference_mode_dtypes_and_empty_batches_make_the_same_maps(world):
    sample = world[0]
    images, labels = sample.image[None], sample.labels[None]
    clip_es = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()
    cam = CAM("paper", weights="web", scales=(1.0,), preset="clean", device="cpu")
    cam.fit(world, train_backbone=False, epochs=1, progress=False)
    for method in (clip_es, cam):
        wanted = method(images, labels).cams
        with torch.inference_mode():
            torch.testing.assert_close(method(images, labels).cams, wanted)
        found = method(images.double(), labels).cams
        torch.testing.assert_close(found.float(), wanted, atol=1e-4, rtol=1e-3)
        assert method(images[:0], labels[:0]).cams.shape == (0, *wanted.shape[1:])


def test_a_set_that_teaches_nothing_is_said(world):
    from wsss_kit.segmentation import train_segmenter

    masks = {name: torch.full((96, 96), 255) for name in world.names}
    with pytest.warns(UserWarning, match="every loss of .* was 0"):
        train_segmenter(world, masks, epochs=1, device="cpu", progress=False)


def test_surroundings(monkeypatch, world, tmp_path, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress([1, 2], what="a")) == [1, 2]
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="RANK none and WORLD_SIZE 2"):
        place_in_run()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="seed is 99999999999999999999"):
        CAMMethod.fit(CAM("paper", preset="clean"), world, seed=99999999999999999999)
    weights = save_model(tmp_path / "cam", {"a": torch.ones(1)}, {"method": "CAM"})
    before = weights.read_bytes()
    assert main(["evaluate", str(tmp_path), "--data", "paper", "--out", str(weights)]) == 2
    assert "a file that ends in .html" in capsys.readouterr().err and weights.read_bytes() == before


def test_without_a_network_the_message_names_the_option(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("wsss_kit.commands.load_clip", refused)
    from wsss_kit.commands import clip_named

    with pytest.raises(RuntimeError, match=r"give a file by --clip-weights; .*ViT-B-16\.pt"):
        clip_named("voc", None, None, usual="ViT-B-16-quickgelu", device="cpu")


def test_stopped_while_it_imports(tmp_path):
    code = (
        "import sys, runpy\nclass Stop:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'wsss_kit.commands.line':\n            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\nsys.argv = ['wsss_kit']\n"
        "runpy.run_module('wsss_kit', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr
