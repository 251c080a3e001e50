"""Published rows: the commands of each, what they need, and what happens once it is there."""

import functools
import re

import pytest
import torch

from tests.commands.voc_layout import build_coco
from wsss_kit import commands
from wsss_kit.__main__ import main
from wsss_kit.clip import FrozenCLIP, load_clip
from wsss_kit.commands import read_masks, train_method
from wsss_kit.commands.evaluate import filled, needs_of, run_evaluate, run_reproduce
from wsss_kit.commands.line import parse
from wsss_kit.data import load_voc
from wsss_kit.evaluation import BackgroundRule, predict_masks, published, published_rows
from wsss_kit.methods import clims
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import clip_es_maps, clip_es_masks
from wsss_kit.segmentation import PRESETS, Segmenter, train_segmenter

WEIGHTS = ("ViT-B-16.pt", "ViT-B-32.pt", "resnet38.pth", "res38_aff.pth", "res50_irn.pth")
ABLE = [row.name for row in published_rows() if row.commands]
RUN = {"iterations": 1, "device": "cpu", "run": True}
PLACES = {"root": "data/x", "weights": "w", "out": "o", "seed": "0"}


@pytest.fixture(autouse=True)
def pages_without_figures(monkeypatch):
    """`test_evaluate` looks at them; here every row would draw several pages of them."""
    monkeypatch.setattr("wsss_kit.commands.evaluate.report_figures", lambda *_: {})


@pytest.fixture
def places(voc, tmp_path):
    """Where a run looks, with empty files of weights that nothing reads."""
    (tmp_path / "weights").mkdir()
    for name in (*WEIGHTS, "resnet50.pth", "resnet101.pth", "resnet101-coco.pth"):
        (tmp_path / "weights" / name).touch()
    return {"root": voc, "weights": tmp_path / "weights", "out": tmp_path / "out"}


@pytest.fixture
def random_clip(monkeypatch):
    """A CLIP of the real layout and vocabulary, small and random; returns what was asked for."""
    import open_clip
    from open_clip.model import CLIP

    given = []

    def load(name, *, weights, device, **_):
        given.append((name, str(weights)))
        torch.manual_seed(0)
        vision = {"layers": 3, "width": 64, "head_width": 16, "patch_size": 16, "image_size": 64}
        text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
        model = CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=True)
        return FrozenCLIP(model, open_clip.get_tokenizer("ViT-B-16-quickgelu"))

    monkeypatch.setattr(commands, "load_clip", load)
    return given


@pytest.fixture
def small_segmenter(monkeypatch):
    """A segmenter that a test has time for; returns what the recipe asked for."""
    given = {}

    @functools.wraps(train_segmenter)
    def train(samples, masks, *, network, weights, preset, **options):
        given.update(network=network, weights=weights, preset=preset, masks=masks, **options)
        kept = {name: options[name] for name in ("taught_by", "iterations", "seed", "checkpoint")}
        return train_segmenter(samples, masks, batch_size=2, device="cpu", **kept)

    monkeypatch.setattr(train_method, "train_segmenter", train)
    return given


def parsed(words):
    """Options of a command line by the real parser; those of a training's method too."""
    _, bound = parse(words)
    given = {name: value for name, value in bound.arguments.items() if value is not None}
    return {"command": words[0], **({"what": words[1]} if words[0] == "train" else {}), **given}


def test_every_row_has_commands_or_a_reason(capsys):
    assert run_reproduce() == 0
    assert len(ABLE) == 37 and f"{len(published_rows()) - 37} more" in capsys.readouterr().out
    for row in published_rows():
        assert bool(row.commands) != bool(row.cannot)
    reasons = " ".join(row.cannot or "" for row in published_rows())
    assert set(re.findall(r"reproduced as (\S+)", reasons)) <= set(ABLE)


@pytest.mark.parametrize("name", ABLE)
def test_every_command_is_one_of_the_kit(name):
    """The real parser reads it, and what it reads was written by a command before it."""
    row, written = published(name), set()
    for words in filled(row, [], **PLACES):
        assert not re.search(r"[{}]", " ".join(words))
        if words[0] == "#":
            continue
        options = parsed(words)
        source = [options.get(k) for k in ("method", "start", "masks", "folder")]
        for path in (str(p) for p in source if str(p).startswith("o/")):
            assert path in written
        if options["command"] == "train":
            written.add(f"{options['out']}/{options['what']}")
            known = {"segmenter": PRESETS, "clims": clims.PRESETS}.get(options["what"], ())
            assert "preset" not in options or options["preset"] in known
        written.add(str(options.get("out")))
    scored = {"evaluate"} if row.split != "test" or row.data == "PaperWorld" else {"#"}
    assert words[0] in scored
    if words[0] == "evaluate":
        assert (options["row"], options["split"]) == (name, row.split)


def test_recipes_have_the_published_settings():
    def command(name, start):
        lines = [" ".join(w) for w in filled(published(name), [], **PLACES)]
        return parsed(next(line for line in lines if line.startswith(start)).split())

    options = command("clims-later/coco-train/maps", "train clims")
    released = {"otm": 2, "btm": 14, "cbs": 0.625, "reg": 0.2, "cbs_threshold": 0.285}
    released |= {"epochs": 8, "batch_size": 32, "learning_rate": 5e-4, "preset": "reference"}
    assert {k: options[k] for k in released} == released
    assert command("clims/val/coco", "train clims")["preset"] == "paper"
    options = command("psa/val/walk", "train cam")
    assert (options["crop"], options["long_side"]) == (448, [448, 768])
    for affinity, names in (
        ("w/res38_aff.pth", ("clims/train/walk", "clims-later/train/walk", "sc-cam/val")),
        ("w/res50_irn.pth", ("clims-later/train/irn", "clims-later/test/coco")),
    ):
        assert all(command(name, "masks o/")["affinity"] == affinity for name in names)
    for name, preset, start in (
        ("clip-es/val/imagenet", "clip_es_imagenet", "w/resnet101.pth"),
        ("clip-es/test/coco", "clip_es_coco", "w/resnet101-coco.pth"),
        ("clip-es/coco-val", "clip_es_imagenet", "w/resnet101.pth"),
        ("clims/val/imagenet", "clims_imagenet", "w/resnet101.pth"),
        ("clims-later/test/coco", "clims_coco", "w/resnet101-coco.pth"),
        ("sc-cam/test", "deeplab", "w/resnet101.pth"),
    ):
        options = command(name, "train segmenter")
        assert (options["preset"], options["weights"]) == (preset, start)
        options = command(name, "masks o/segmenter")
        assert options["scales"] == [1, 0.75, 0.5] and options["fuse"] == "max" and options["crf"]


def test_what_a_row_needs(voc, tmp_path):
    needs = needs_of(published("sc-cam/val"), root=voc, weights=tmp_path)
    assert [n.path.name for n in needs if n.missing] == ["resnet38.pth", "res38_aff.pth"]
    text = "\n".join(map(str, needs))
    assert f"[there] {voc / 'JPEGImages'}: photographs" in text
    assert f"[there] {voc / 'SegmentationClass'}: masks, to score" in text
    assert "[MISSING]" in text and "itijyou/ademxapp" in text and "[fetched]" in text
    later = ["resnet50.pth", "ViT-B-32.pt", "res50_irn.pth", "resnet101-coco.pth"]
    for name, files in {"clims-later/val/coco": later, "paper/clip-es": []}.items():
        needs = needs_of(published(name), root=voc, weights=tmp_path)
        assert [n.path.name for n in needs if n.path.parent == tmp_path and n.path != voc] == files
    needs = needs_of(published("clip-es/test/imagenet"), root=voc)
    assert not any(n.path.name == "SegmentationClass" for n in needs)
    assert {"train_aug.txt", "test.txt"} <= {n.path.name for n in needs}
    needs = needs_of(published("clip-es/coco-val"), root=tmp_path)
    assert {"instances_train2014.json", "val2014"} <= {n.path.name for n in needs}


def test_nothing_begins_while_something_is_missing(voc, tmp_path, capsys):
    arguments = ["reproduce", "sc-cam/train/maps", "--root", str(voc)]
    arguments += ["--weights", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--run"]) == 2
    printed = capsys.readouterr()
    assert "1 of 6 things are missing" in printed.err
    assert str(tmp_path / "resnet38.pth") in printed.err
    assert main(arguments) == 0
    assert capsys.readouterr().out == printed.out and "  python -m wsss_kit train" in printed.out
    assert not (tmp_path / "out").exists()

    capsys.readouterr()  # what is not there is fetched by its name
    assert run_reproduce("clims/train/maps", root=voc, weights=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "--weights imagenet" in printed and "--clip-weights openai" in printed
    (tmp_path / "resnet50.pth").touch()
    assert run_reproduce("clims/train/maps", root=voc, weights=tmp_path) == 0
    assert f"--weights {tmp_path / 'resnet50.pth'}" in capsys.readouterr().out


def test_clip_es_on_a_small_voc(places, random_clip):
    assert run_reproduce("clip-es/train/crf", **places, device="cpu", run=True) == 0
    assert random_clip == [("ViT-B-16-quickgelu", str(places["weights"] / "ViT-B-16.pt"))]
    written = read_masks(places["out"] / "masks").masks
    clip = commands.load_clip("ViT-B-16-quickgelu", weights="x", device="cpu")
    method = CLIPES(clip, prompts=Prompts.voc(method="clip_es")).fit()
    for sample in load_voc(places["root"], "train"):
        images, labels = sample.image[None], sample.labels[None]
        expected = clip_es_masks(images, labels, method=method, min_confidence=None)
        assert torch.equal(written[sample.name], expected[0])
    page = (places["out"] / "masks" / "report.html").read_text(encoding="utf-8")
    table = page[page.index("Ours beside what is published") :]
    row = re.search(r"<tr>\s*<td>clip-es/train/crf.*?</tr>", table, re.DOTALL).group()
    assert "n_images: 2, there 1464" in row and "background" not in row and "refin" not in row


def test_a_segmenter_learns_from_train_aug_where_clip_es_is_sure(
    places, random_clip, small_segmenter, capsys
):
    assert run_reproduce("clip-es/val/imagenet", **places, **RUN) == 0
    assert small_segmenter["network"] == "deeplab_v2"
    assert small_segmenter["weights"] == str(places["weights"] / "resnet101.pth")
    taught = small_segmenter["masks"]
    assert len(taught) == 4 and 255 in torch.cat([m.flatten() for m in taught.values()])
    assert list(read_masks(places["out"] / "predicted").masks) == ["val_0", "val_1"]
    assert "A trial on a part" in capsys.readouterr().out


def test_masks_of_test_are_written_and_not_scored(places, random_clip, small_segmenter, capsys):
    assert run_reproduce("clip-es/test/imagenet", **places, **RUN) == 0
    assert "handed in to VOC's server" in capsys.readouterr().out
    assert len(list((places["out"] / "predicted" / "masks").glob("test_*.png"))) == 2
    assert not (places["out"] / "predicted" / "report.html").exists()


def test_coco_runs_with_its_own_classes(places, tmp_path, random_clip, small_segmenter):
    coco = {**places, "root": build_coco(tmp_path / "COCO2014")}
    assert run_reproduce("clip-es/coco-val", **coco, **RUN) == 0
    names = ["COCO_val2014_0", "COCO_val2014_1"]
    assert list(read_masks(coco["out"] / "predicted").masks) == names
    assert small_segmenter["preset"] == "clip_es_imagenet" and len(small_segmenter["masks"]) == 2
    net = Segmenter.load(coco["out"] / "segmenter" / "segmenter", device="cpu")
    assert len(net.classes) == 80


# -- the embedded world -----------------------------------------------------------------------


def test_the_embedded_world_runs_whole_and_goes_on(tmp_path, capsys, monkeypatch):
    run = {"out": tmp_path, "limit": 4, **RUN}
    assert run_reproduce("paper/clip-es", **run) == 0
    printed = capsys.readouterr().out
    assert "published: 85.4" in printed and printed.count("mIoU ") >= 4
    threshold = re.search(r"masks clip-es (--\w+) (\S+) --data", printed)
    rule = BackgroundRule(**{threshold[1][2:]: float(threshold[2])})
    method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()
    maps_of = functools.partial(clip_es_maps, method=method)
    expected = predict_masks(maps_of, PaperWorld(4, split="test"), rule, shown=False)
    written = read_masks(tmp_path / "maps").masks
    assert all(torch.equal(written[name], mask) for name, mask in expected.items())
    for folder in ("predicted", "predicted-crf"):
        assert len(read_masks(tmp_path / folder).masks) == 4

    def work(*_, **__):
        raise AssertionError("made again")

    written_at = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/masks/*.png")}
    name = "train_method"
    monkeypatch.setattr(train_method, name, functools.wraps(getattr(train_method, name))(work))
    quiet = functools.wraps(run_evaluate)(lambda *_, **__: None)
    monkeypatch.setattr("wsss_kit.commands.evaluate.run_evaluate", quiet)
    assert run_reproduce("paper/clip-es", **run) == 0
    assert capsys.readouterr().out.count("(done)") == 1  # masks look at their folders themselves
    assert {path: path.stat().st_mtime_ns for path in written_at} == written_at
    with pytest.raises(ValueError, match="holds a run of other commands"):
        run_reproduce("paper/clip-es", **{**run, "limit": 3})


def test_a_stopped_training_is_resumed(tmp_path, capsys, monkeypatch):
    run = {"out": tmp_path, "limit": 4, **RUN}

    @functools.wraps(train_segmenter)
    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_method, "train_segmenter", stopped)
        assert run_reproduce("paper/ground-truth", **run) == 130
    capsys.readouterr()
    assert run_reproduce("paper/ground-truth", **run) == 0
    assert re.search(r"train segmenter .* --resume\n", capsys.readouterr().out)
    net = Segmenter.load(tmp_path / "segmenter" / "segmenter", device="cpu")
    assert net.taught_by == "ground truth"


@pytest.mark.parametrize("method", ["cam", "sc-cam"])  # clims has the commands of sc-cam
def test_the_other_methods_of_the_embedded_world(method, tmp_path, capsys):
    assert run_reproduce(f"paper/{method}", out=tmp_path, limit=2, **RUN) == 0
    assert "preset: clean" in capsys.readouterr().out
    assert (tmp_path / "predicted-crf" / "report.html").exists()
