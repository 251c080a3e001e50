"""Published rows: what each needs, and what happens once it is there."""

from __future__ import annotations

import functools
import json
import re

import pytest
import torch
from PIL import Image

from tests.commands.voc_layout import build_voc
from wsss_kit.__main__ import main
from wsss_kit.clip import FrozenCLIP
from wsss_kit.commands import clip_at_hand, paper_chain, photograph_chain
from wsss_kit.commands.plans import files_of, plan_of, why_not
from wsss_kit.commands.reproduce import rows_text, run_reproduce
from wsss_kit.evaluation import published, published_rows
from wsss_kit.methods.base import MethodOutput
from wsss_kit.recipes import clip_es_masks
from wsss_kit.segmentation import train_segmenter

WEIGHTS = ("ViT-B-16.pt", "ViT-B-32.pt", "resnet38.pth", "res38_aff.pth", "res50_irn.pth")


@pytest.fixture
def voc(tmp_path):
    return build_voc(tmp_path / "VOC2012")


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

    asked = []

    def load(name, *, weights, device):
        asked.append((name, str(weights)))
        torch.manual_seed(0)
        vision = {"layers": 3, "width": 64, "head_width": 16, "patch_size": 16, "image_size": 64}
        text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
        model = CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=True)
        return FrozenCLIP(model, open_clip.get_tokenizer("ViT-B-16-quickgelu"))

    monkeypatch.setattr(clip_at_hand, "load_clip", load)
    return asked


@pytest.fixture
def small_segmenter(monkeypatch):
    """A segmenter that a test has time for; returns what the recipe asked for."""
    asked = {}

    def train(samples, masks, *, network, weights, preset, **options):
        asked.update(network=network, weights=weights, preset=preset, masks=masks, **options)
        kept = {name: options[name] for name in ("taught_by", "iterations", "seed", "checkpoint")}
        return train_segmenter(samples, masks, batch_size=2, device="cpu", **kept)

    monkeypatch.setattr(photograph_chain, "train_segmenter", train)
    return asked


def test_every_row_of_voc_has_a_plan_or_a_reason(tmp_path):
    able = [row for row in published_rows() if why_not(row) is None]
    assert len(able) == 37 and f"{len(published_rows()) - 37} more" in rows_text()
    for row in published_rows():
        plan = plan_of(row, root=tmp_path, weights=tmp_path)
        assert bool(plan.cannot) != bool(plan.steps) and str(row) in str(plan)
        assert bool(plan.missing) == (plan.cannot is None and row.data != "PaperWorld")
    for name, reason in {
        "leaderboard/clims/val": "the same number is reproduced as clims/val/coco",
        "leaderboard/sc-cam/train": "reproduced as sc-cam/train/walk",
        "leaderboard/sc-cam/glas": "no recipe is published",
        "clip-es/camvid": "no recipe for CamVid is published",
        "clims-later/val/resnet38": "no DeepLabV1 on ResNet-38",
    }.items():
        assert reason in why_not(published(name))


def test_a_plan_says_what_is_missing_and_what_is_fetched(voc, tmp_path):
    row = published("sc-cam/val")
    plan = plan_of(row, root=voc, weights=tmp_path)
    assert [need.path.name for need in plan.missing] == ["resnet38.pth", "res38_aff.pth"]
    text = str(plan)
    assert f"[there] {voc / 'JPEGImages'}: photographs" in text
    assert "[MISSING]" in text and "itijyou/ademxapp" in text and "[fetched]" in text
    for name, files in {
        "clip-es/train/crf": ["ViT-B-16.pt"],
        "clims/train/walk": ["ViT-B-32.pt", "resnet50.pth", "res38_aff.pth"],
        "clims-later/val/coco": [
            *("ViT-B-32.pt", "resnet50.pth", "res50_irn.pth", "resnet101-coco.pth")
        ],
        "psa/val/cam": ["resnet38.pth"],
        "clip-es/coco-val": ["ViT-B-16.pt", "resnet101.pth"],
        "clims-later/coco-train/maps": ["ViT-B-32.pt", "resnet50.pth"],
    }.items():
        assert files_of(published(name)) == files


def test_nothing_begins_while_something_is_missing(voc, tmp_path, capsys):
    arguments = ["reproduce", "sc-cam/train/maps", "--root", str(voc)]
    out = ["--weights", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, *out]) == 2
    said = capsys.readouterr()
    assert "1 of 6 things are missing" in said.err and str(tmp_path / "resnet38.pth") in said.err
    assert "Steps:" in said.out and not (tmp_path / "out").exists()
    assert main([*arguments, *out, "--plan"]) == 0
    assert main(["reproduce"]) == 0
    assert "clip-es/train/crf" in capsys.readouterr().out
    assert main(["reproduce", "clip-es/train/cfr"]) == 2
    assert "there is no published row 'clip-es/train/cfr'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "background", "refinement"),
    [
        ("clip-es/train/maps", "the best of the powers 1 to 10: (1 - max)^", "none"),
        ("clip-es/train/affinity", "the better of the powers 1 and 2: (1 - max)^", "attention"),
        ("clip-es/train/crf", "power 1", "attention affinity, dense CRF"),
    ],
)
def test_clip_es_on_a_small_voc(name, background, refinement, places, random_clip):
    (report,) = run_reproduce(name, **places, device="cpu").values()
    assert report.protocol.background.startswith(background)
    assert report.protocol.refinement.startswith(refinement)
    assert report.protocol.preset == "reference"
    assert report.names == ("train_0", "train_1") and len(report.classes) == 21
    assert random_clip == [("ViT-B-16-quickgelu", str(places["weights"] / "ViT-B-16.pt"))]
    page = (places["out"] / "report.html").read_text(encoding="utf-8")
    for said in (name, "Ours beside what is published", "few pictures", "largest errors"):
        assert said in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert len(list((places["out"] / "masks" / "masks").glob("*.png"))) == 2


def test_masks_are_not_made_twice(places, random_clip, monkeypatch):
    run = {"name": "clip-es/train/crf", **places, "device": "cpu"}
    first = run_reproduce(**run)
    monkeypatch.setattr(photograph_chain, "_masks_of", lambda *_, **__: None)
    again = run_reproduce(**run)
    assert again["masks"].mean_iou == first["masks"].mean_iou
    with pytest.raises(ValueError, match="made otherwise"):
        run_reproduce(**run, limit=1)


def test_a_segmenter_learns_from_train_aug_where_clip_es_is_sure(
    places, random_clip, small_segmenter
):
    (report,) = run_reproduce("clip-es/val/imagenet", **places, iterations=2, device="cpu").values()
    assert report.names == ("val_0", "val_1")
    assert report.protocol.preset == "clip_es_imagenet"
    assert small_segmenter["network"] == "deeplab_v2"
    assert small_segmenter["preset"] == "clip_es_imagenet"
    assert small_segmenter["weights"] == places["weights"] / "resnet101.pth"
    taught = small_segmenter["masks"]
    assert len(taught) == 4 and 255 in torch.cat([m.flatten() for m in taught.values()])
    assert "A trial on a part" in (places["out"] / "report.html").read_text(encoding="utf-8")


def test_masks_of_test_are_written_and_not_scored(places, random_clip, small_segmenter, capsys):
    assert run_reproduce("clip-es/test/imagenet", **places, iterations=1, device="cpu") == {}
    assert "handed in to VOC's server" in capsys.readouterr().out
    assert len(list((places["out"] / "predicted" / "masks").glob("test_*.png"))) == 2


@pytest.fixture
def coco(places, tmp_path):
    """A COCO of four pictures, two in each split."""
    root = tmp_path / "COCO2014"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"{split}2014").mkdir()
        names = [f"COCO_{split}2014_{i}.jpg" for i in range(2)]
        for name in names:
            Image.new("RGB", (64, 48), (90, 90, 90)).save(root / f"{split}2014" / name)
        images = [
            {"id": i, "file_name": name, "height": 48, "width": 64} for i, name in enumerate(names)
        ]
        outline = [[10, 10, 40, 10, 40, 30, 10, 30]]
        annotations = [
            {"id": i, "image_id": i, "category_id": 18, "area": 600, "segmentation": outline}
            for i in range(2)
        ]
        found = {"images": images, "annotations": annotations}
        found["categories"] = [{"id": 18, "name": "dog"}]
        path = root / "annotations" / f"instances_{split}2014.json"
        path.write_text(json.dumps(found))
    return {**places, "root": root}


def test_coco_has_its_own_box_threshold_and_classes(
    coco, random_clip, small_segmenter, monkeypatch
):
    asked = []

    def recipe(images, labels, **options):
        asked.append(options["box_threshold"])
        return clip_es_masks(images, labels, **options)

    monkeypatch.setattr(photograph_chain, "clip_es_masks", recipe)
    (report,) = run_reproduce("clip-es/coco-val", **coco, iterations=1, device="cpu").values()
    assert report.names == ("COCO_val2014_0", "COCO_val2014_1") and set(asked) == {0.7}
    assert len(report.classes) == 81 and report.protocol.data == "COCO 2014"
    assert small_segmenter["preset"] == "clip_es_imagenet" and len(small_segmenter["masks"]) == 2


def test_clims_on_coco_has_its_own_weights(coco, random_clip, monkeypatch):
    Fitted.made = []
    for kind in ("CAM", "CLIMS"):
        monkeypatch.setattr(photograph_chain, kind, type(kind, (Fitted,), {}))
    (report,) = run_reproduce("clims-later/coco-train/maps", **coco, device="cpu").values()
    clims = Fitted.made[-1]
    assert clims.options["btm"] == 14 and clims.options["cbs_threshold"] == 0.285
    assert clims.fitted["epochs"] == 8 and report.names[0].startswith("COCO_train2014")


class Fitted:
    """Stands for a method: keeps how it was made and fitted, and gives flat maps."""

    made: list = []  # noqa: RUF012  # emptied by the test

    def __init__(self, *args, **options):
        self.args, self.options, self.preset = args, options, options.get("preset", "reference")
        Fitted.made.append(self)

    def fit(self, samples, **options):
        self.samples, self.fitted = samples, options
        return self

    def __call__(self, images, labels):
        return MethodOutput(labels[:, :, None, None] * torch.full((6, 8), 0.5))


class Fixed:
    """Stands for an affinity that was read from a file."""

    read: list = []  # noqa: RUF012

    @classmethod
    def load(cls, path):
        cls.read.append(path.name)
        return lambda images: torch.eye(48)[None]


@pytest.mark.parametrize(
    ("name", "kinds", "affinity", "crop"),
    [
        ("sc-cam/train/walk", ["SCCAM"], "res38_aff.pth", 224),
        ("clims/train/maps", ["CAM", "CLIMS"], None, 512),
        ("clims-later/train/irn", ["CAM", "CLIMS"], "res50_irn.pth", 512),
        ("clims/baseline-cam", ["CAM"], None, 512),
        ("psa/val/walk", ["CAM"], "res38_aff.pth", 448),
    ],
)
def test_what_is_trained_learns_from_train_aug_by_its_recipe(
    name, kinds, affinity, crop, places, random_clip, monkeypatch
):
    Fitted.made, Fixed.read = [], []
    for kind in ("CAM", "SCCAM", "CLIMS"):
        monkeypatch.setattr(photograph_chain, kind, type(kind, (Fitted,), {}))
    monkeypatch.setattr(photograph_chain, "AffinityNet", Fixed)
    (report,) = run_reproduce(name, **places, device="cpu").values()
    assert [type(method).__name__ for method in Fitted.made] == kinds
    assert Fixed.read == ([affinity] if affinity else [])
    last = Fitted.made[-1]
    assert last.fitted["crop"] == crop and len(last.samples) == 4
    assert last.fitted["checkpoint"] == places["out"] / "method-training"
    if kinds[-1] == "CLIMS":
        assert last.preset == ("reference" if "later" in name else "paper")
    assert report.recall[[10, 12]].min() > 0.9  # flat maps: all of the picture is cow or dog


def test_the_embedded_world_runs_whole(tmp_path, capsys):
    options = {"out": tmp_path / "out", "limit": 4, "iterations": 2, "device": "cpu"}
    reports = run_reproduce("paper/clip-es", **options)
    assert list(reports) == ["maps", "masks", "segmenter", "segmenter, CRF"]
    assert all(report.protocol.n_images == 4 for report in reports.values())
    assert reports["masks"].protocol.refinement == "attention affinity, dense CRF"
    assert "not stated" not in " ".join(str(report.protocol) for report in reports.values())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "what each class spills onto" in page and "maps to masks" in page
    assert "published: " in capsys.readouterr().out
    again = run_reproduce("paper/clip-es", **options)
    assert {k: r.mean_iou for k, r in again.items()} == {k: r.mean_iou for k, r in reports.items()}


def test_the_ceiling_learns_from_true_masks_and_says_so(tmp_path):
    options = {"out": tmp_path / "out", "limit": 4, "iterations": 2, "device": "cpu"}
    reports = run_reproduce("paper/ground-truth", **options)
    assert list(reports) == ["segmenter", "segmenter, CRF"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "learned from the true masks of 4 pictures" in page


@pytest.mark.parametrize("method", ["cam", "sc-cam", "clims"])
def test_the_other_methods_of_the_embedded_world(method, tmp_path):
    options = {"out": tmp_path / "out", "limit": 2, "iterations": 1, "device": "cpu"}
    reports = run_reproduce(f"paper/{method}", **options)
    assert len(reports) == 4 and reports["maps"].protocol.preset == "clean"


def test_another_seed_trains_the_method_first(tmp_path, monkeypatch):
    few = functools.partial(paper_chain.train_paper_sc_cam, n_train=16, n_val=2)
    monkeypatch.setattr(paper_chain, "train_paper_sc_cam", few)
    options = {"out": tmp_path / "out", "limit": 2, "iterations": 1, "device": "cpu"}
    reports = run_reproduce("paper/sc-cam", seed=1, **options)
    assert len(reports) == 4 and (tmp_path / "out" / "method" / "sc-cam.safetensors").exists()
