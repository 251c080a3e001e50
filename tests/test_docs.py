"""The pages of the documentation say what is there: their messages, and every command runs."""

import re
import shutil
from functools import partial, partialmethod
from pathlib import Path

import pytest
import torch
from open_clip import create_model
from open_clip.factory import _MODEL_CONFIGS as CONFIGS
from PIL import Image
from torch.nn import BatchNorm2d
from torchvision.models import get_model, get_model_weights, resnet

from tests.commands.test_download import own_archives, pack, sbd  # noqa: F401
from tests.commands.test_grade import SOLUTIONS, write
from tests.commands.voc_layout import build_coco, build_voc
from tests.programs import run_python
from wsss_kit.commands import train
from wsss_kit.commands.line import main, parse
from wsss_kit.data.export import export_masks
from wsss_kit.data.folder import load_folder_masks
from wsss_kit.paperworld.pretrain import Pretraining

ROOT = Path(__file__).resolve().parent.parent
SOURCES = " ".join(
    re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8"))
    for path in [*(ROOT / "wsss_kit").rglob("*.py"), ROOT / "Makefile"]
)
PAGES = [ROOT / "data" / "README.md", ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.md"))]
PLACES = {"FOLDER": "f", "DIR": "d", "FILE": "f.json", "ROW": "clip-es/val/imagenet"}
ELSEWHERE = {"demo", "compare", "bench", "grade", "prompts search"}
"""Named in a sentence without what they need; `demo` as a whole is a step of ``.ci/run``."""
SHORTER = {
    "download": "--from mirror",
    "prompts search": "--candidates grass,sky",
    "train cam --data voc": "--batch-size 2 --crop 64",
    "train cam --data pets": "--batch-size 2 --crop 64 --epochs 1",
    "train clims": "--batch-size 2 --crop 64 --epochs 1",
    "train segmenter --masks": "--batch-size 2 --crop 65 --iterations 2 --validate 2",
    "train paper-trunk": "--steps 2 --batch 2",
    "train paper-clims": "--n-train 4 --n-val 2",
    "train paper-sc-cam": "--n-train 8 --n-val 2",
}
"""What makes a command short enough for a test."""


def test_messages_of_the_troubleshooting_page_are_those_of_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"\*\*`(.+?)`\*\*", page)
    assert len(messages) > 15
    assert [message for message in messages if message not in SOURCES] == []


def commands():
    """The kit's command lines in code blocks and in running text, each once, in their order."""
    found = {}
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?:python|\.\.\.) -m wsss_kit ([^`#\n]+)", text):
            words = line.split()
            if "..." not in words and "COMMAND" not in words and "…" not in line:
                found[" ".join(words)] = words
    return found


@pytest.mark.parametrize("words", commands().values(), ids=" ".join)
def test_every_command_line_of_the_pages_is_one(words):
    words = [PLACES.get(word, word) for word in words]
    named = [] if any(word.startswith("--") for word in words) else ["--help"]
    parse([*words, *named])


@pytest.fixture
def place(tmp_path, monkeypatch, own_archives):  # noqa: F811
    """A working folder with small data, and random weights where the pages have real ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("VOC", "COCO", "PETS", "FOLDER"):  # data of the machine are not those of the pages
        monkeypatch.delenv(f"WSSS_KIT_{name}", raising=False)
    voc, files = build_voc(tmp_path / "built"), tmp_path / "mirror"
    names = {"train": ["train_aug_0", "val_0"], "val": ["train_aug_1", "train_0"]}
    (voc / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    pack(voc, files / "VOCtrainval_11-May-2012.tar", "VOCdevkit/VOC2012/")
    pack(sbd(tmp_path / "sbd", names), files / "benchmark.tgz", "benchmark_RELEASE/dataset/")
    coco = build_coco(tmp_path / "coco")
    for split in ("train", "val"):
        pack(coco / f"{split}2014", files / f"{split}2014.zip", f"{split}2014/")
    pack(coco / "annotations", files / "annotations_trainval2014.zip", "annotations/")
    pets = tmp_path / "built pets"
    (pets / "annotations" / "trimaps").mkdir(parents=True)
    (pets / "images").mkdir()
    for split in ("trainval", "test"):
        for number, name in enumerate((f"Abyssinian_{split}", f"beagle_{split}"), 1):
            Image.new("RGB", (64, 48), (90, 80 * number, 20)).save(pets / "images" / f"{name}.jpg")
            trimap = Image.new("L", (64, 48), 2)
            trimap.paste(1, (10, 10, 40, 30))
            trimap.save(pets / "annotations" / "trimaps" / f"{name}.png")
            with (pets / "annotations" / f"{split}.txt").open("a") as list_of:
                list_of.write(f"{name} {number} {number} 1\n")
    for part in ("images", "annotations"):
        pack(pets / part, files / f"{part}.tar.gz", f"{part}/")
    (tmp_path / "mine" / "masks").mkdir(parents=True)
    for name in "abc":
        shutil.copy(voc / "JPEGImages" / "train_0.jpg", tmp_path / "mine" / f"{name}.jpg")
        Image.new("L", (64, 48), 1).save(tmp_path / "mine" / "masks" / f"{name}.png")
    (tmp_path / "mine" / "labels.csv").write_text("file,labels\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\n")
    shutil.copytree(tmp_path / "mine" / "masks", tmp_path / "masks")
    export_masks(load_folder_masks("mine"), ("cat", "dog"), tmp_path / "masks.json", to="coco-rle")
    write(tmp_path / "build" / "handout" / "instructor" / "00_sums.ipynb", SOLUTIONS, key=True)
    write(tmp_path / "handed-in" / "ann" / "00_sums.ipynb", SOLUTIONS)
    (own,) = re.findall(r"```python\n(# mine.py.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "mine.py").write_text(own)
    torch.manual_seed(0)
    whole = resnet._resnet  # with one block a stage, and so light that no training runs away
    monkeypatch.setattr(
        resnet, "_resnet", lambda block, _, *rest, **o: whole(block, [1] * 4, *rest, **o)
    )
    for name in ("resnet18", "resnet50", "resnet101"):
        network = get_model(name)
        for norm in (m for m in network.layer4.modules() if isinstance(m, BatchNorm2d)):
            torch.nn.init.constant_(norm.weight, 1e-3)
        for tag in get_model_weights(name):
            file = tmp_path / "torch" / "hub" / "checkpoints" / Path(tag.url).name
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(network.state_dict(), file)
    for name in ("ViT-B-16", "ViT-B-32"):
        config = CONFIGS[f"{name}-quickgelu"]
        vision = config["vision_cfg"] | {"layers": 2, "width": 64, "head_width": 32}
        small = {"vision_cfg": vision, "text_cfg": config["text_cfg"] | {"layers": 1, "width": 64}}
        monkeypatch.setitem(CONFIGS, f"{name}-quickgelu", config | small | {"embed_dim": 32})
        file = tmp_path / "data" / "weights" / f"{name}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(create_model(f"{name}-quickgelu").state_dict(), file)
    few = partial(train.write_affinity, n_images=1)  # what a tower's card measures takes minutes
    monkeypatch.setattr(train, "write_affinity", few)
    monkeypatch.setattr(Pretraining, "export", partialmethod(Pretraining.export, n=4))
    monkeypatch.setattr(train, "Pretraining", partial(Pretraining, batch=8))
    yield tmp_path
    shutil.rmtree(tmp_path / "torch")


@pytest.mark.slow  # .ci/run has it as a step
def test_every_command_of_the_pages_runs(place, capsys):
    ended = {}
    stands_for = PLACES | {"THIS_FOLDER": "build/handout/instructor", "FILE": "masks"}
    for line in commands():
        if line in ELSEWHERE:
            continue
        command = line.partition(" ")[0]
        stands_for["FOLDER"] = "handed-in" if command == "grade" else "mine"
        stands_for["DIR"] = "data/runs/masks" if command == "export" else "masks"
        words = re.sub(
            r"[A-Z_]{3,}", lambda found: stands_for.get(found[0], found[0]), line
        ).split()
        words += next((v.split() for k, v in SHORTER.items() if line.startswith(k)), [])
        words += "--limit 2 --iterations 1".split() * ("--run" in words)
        if "--steps" in words:
            words[words.index("--steps") + 1] = "1"
        code = main(words)
        ended[line] = code, capsys.readouterr().err[-300:]
    assert len(ended) > 25
    assert {line: said for line, said in ended.items() if said[0]} == {}


@pytest.mark.slow
def test_the_label_budget_of_the_readme_runs(tmp_path):
    words = "--limit 20 --seeds 0 --out".split()
    said = run_python(ROOT / "notebooks" / "label_budget.py", *words, tmp_path, cwd=ROOT)
    assert "image-level labels (CLIMS) are worth" in said
    assert (tmp_path / "table.csv").is_file() and (tmp_path / "curve.png").is_file()
