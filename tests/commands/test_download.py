"""Data sets from archives that lie here: fetched, unpacked, read, and gone on with."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.commands.voc_layout import build_coco, build_voc
from wsss_kit.__main__ import main
from wsss_kit.commands import download as module
from wsss_kit.commands.download import add_train_aug, download
from wsss_kit.data import load_coco, load_pets, load_voc, load_voc_masks


def pack(folder: Path, path: Path, top: str) -> Path:
    """A folder as a tar or zip whose files lie below ``top``."""
    stage = path.parent / f"{path.name} unpacked"
    shutil.copytree(folder, stage / top)
    form = {".zip": "zip", ".tar": "tar"}.get(path.suffix, "gztar")
    return Path(shutil.move(shutil.make_archive(str(stage), form, stage), path))


@pytest.fixture(autouse=True)
def own_archives(monkeypatch):
    """The archives of a test have other checksums, and nobody else is asked."""

    def plain(part):
        return part._replace(archive=part.archive._replace(sources=(), checksum=None))

    sets = {name: tuple(map(plain, parts)) for name, parts in module.SETS.items()}
    monkeypatch.setattr(module, "SETS", sets)
    monkeypatch.setattr(module, "_SBD", module._SBD._replace(sources=(), checksum=None))


@pytest.fixture
def mirror(tmp_path):
    return tmp_path / "mirror"


def test_voc_comes_from_the_first_source_that_has_it(mirror, tmp_path, capsys):
    voc = build_voc(tmp_path / "built")
    pack(voc, mirror / "VOCtrainval_11-May-2012.tar", "VOCdevkit/VOC2012/")
    out = tmp_path / "VOC2012"
    arguments = ["download", "voc", "--out", str(out), "--from", str(tmp_path), str(mirror)]
    page = tmp_path / "page" / "VOCtrainval_11-May-2012.tar"
    page.parent.mkdir()
    page.write_text("<html>please log in</html>")
    assert main([*arguments[:-2], str(page.parent)]) == 2  # and it is not kept
    assert main(arguments) == 0
    assert "2 images of train" in capsys.readouterr().out
    assert load_voc(out, "val")[0].image.shape == (3, 48, 64)
    assert not list((out / "archives").glob("*.tar"))  # it is unpacked
    os.remove(mirror / "VOCtrainval_11-May-2012.tar")
    assert main(arguments) == 0  # nothing is fetched again


def test_no_source_says_what_each_answered_and_what_to_do(tmp_path, capsys):
    out = tmp_path / "VOC2012"
    assert main(["download", "voc", "--out", str(out), "--from", str(tmp_path / "no")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "VOCtrainval_11-May-2012.tar could not be downloaded" in message
    assert "No such file" in message and f"put it into {out / 'archives'}" in message


def sbd(root, names):
    """SBD's layout, its masks in MATLAB's format."""
    (root / "cls").mkdir(parents=True)
    for split, listed in names.items():
        (root / f"{split}.txt").write_text("\n".join(listed))
        for name in listed:
            mask = np.full((48, 64), 10, np.uint8)
            savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": mask}})
    return root


def test_train_aug_is_sbd_and_train_without_val(mirror, tmp_path):
    voc = build_voc(tmp_path / "built")
    (voc / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    (voc / "SegmentationClass" / "train_aug_0.png").unlink()  # VOC has no masks of most of it
    pack(voc, mirror / "VOCtrainval_11-May-2012.tar", "VOCdevkit/VOC2012/")
    names = {"train": ["train_aug_0", "val_0"], "val": ["train_aug_1", "train_0"]}
    pack(sbd(tmp_path / "sbd", names), mirror / "benchmark.tgz", "benchmark_RELEASE/dataset/")
    out = download("voc", tmp_path / "VOC2012", sources=[mirror], aug=True, shown=False)
    samples, masks = load_voc(out, "train_aug"), load_voc_masks(out, "train_aug")
    assert samples.names == ("train_0", "train_1", "train_aug_0", "train_aug_1")
    assert (masks["train_aug_0"] == 10).all()  # SBD's
    mine = np.asarray(Image.open(voc / "SegmentationClass" / "train_0.png"))
    assert (masks["train_0"].numpy() == mine).all()  # VOC's own goes before


def test_sbd_that_is_damaged_or_missing(tmp_path):
    voc = build_voc(tmp_path / "VOC2012")
    with pytest.raises(FileNotFoundError, match=r"train\.txt is missing; SBD's archive"):
        add_train_aug(voc, shown=False)
    root = sbd(voc / "SBD", {"train": ["train_aug_0"], "val": ["x"]})
    (root / "cls" / "x.mat").write_bytes(b"nonsense" * 30)
    with pytest.raises(ValueError, match=r"x\.mat holds no mask"):
        add_train_aug(voc, shown=False)
    list_of = voc / "ImageSets" / "Segmentation" / "train_aug.txt"
    assert list_of.read_text().split() == [f"train_aug_{i}" for i in range(4)]  # the old one


def test_pets_and_coco_are_read_after_they_are_unpacked(mirror, tmp_path):
    images, notes = tmp_path / "i", tmp_path / "a"
    (notes / "trimaps").mkdir(parents=True)
    images.mkdir()
    for split, name in (("trainval", "Abyssinian_1"), ("test", "Sphynx_2")):
        Image.new("RGB", (4, 3)).save(images / f"{name}.jpg")
        (notes / f"{split}.txt").write_text(f"{name} 1 1 1\n")
    pack(images, mirror / "images.tar.gz", "images/")
    pack(notes, mirror / "annotations.tar.gz", "annotations/")
    out = download("pets", tmp_path / "pets", sources=[mirror], keep=True, shown=False)
    assert load_pets(out).names == ("Abyssinian_1",)
    assert (out / "archives" / "images.tar.gz").exists()
    coco = build_coco(tmp_path / "built")
    for split in ("train", "val"):
        pack(coco / f"{split}2014", mirror / f"{split}2014.zip", f"{split}2014/")
    pack(coco / "annotations", mirror / "annotations_trainval2014.zip", "annotations/")
    out = download("coco", tmp_path / "COCO2014", sources=[mirror], shown=False)
    assert load_coco(out).names == ("COCO_train2014_0", "COCO_train2014_1")
    (out / "train2014").rename(out / "gone")
    with pytest.raises(ValueError, match=r"(?s)is not whole: .*train2014.*; remove .*\*\.unpacked"):
        download("coco", out, sources=[mirror], shown=False)
