"""Masks on disk, scored: with the protocol that lies beside them, and a page."""

import json
import re
import shutil

import pandas as pd
import pytest
from PIL import Image

from wsss_kit.__main__ import main
from wsss_kit.commands.evaluate import run_evaluate
from wsss_kit.commands.generate import write_masks
from wsss_kit.data import load_folder_masks, load_voc
from wsss_kit.data.export import export_masks
from wsss_kit.evaluation import BackgroundRule, best_rule, evaluate, sweep_background
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline

MADE = {"method": "brightness", "background": "constant 0.3", "refinement": "none"}


def recipe(images, labels):
    """What is dark belongs to the image's first class."""
    return (images.mean(1) < 0.4).long() * (1 + labels.argmax(1))[:, None, None]


def test_the_protocol_comes_from_the_folder(tmp_path, capsys):
    folder, world = tmp_path / "out", PaperWorld(4, split="train")
    write_masks(world, recipe, folder, made_by=MADE, shown=False)
    report = run_evaluate(folder, data="paper", limit=4)
    masks = {s.name: recipe(s.image[None], s.labels[None])[0] for s in world}
    expected = evaluate(masks, world.masks, classes=world.classes, protocol=report.protocol)
    assert report.mean_iou == expected.mean_iou and report.stuff is not None
    assert report.protocol.background == "constant 0.3" and report.protocol.split == "train"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "brightness on PaperWorld train" in page and "spills onto" in page
    assert "mIoU" in capsys.readouterr().out


def test_a_folder_of_masks_of_anybody_beside_a_published_number(voc, tmp_path, capsys):
    mine = tmp_path / "own"
    shutil.copytree(voc / "SegmentationClass", mine)
    arguments = ["evaluate", str(mine), "--root", str(voc), "--split", "train"]
    page = tmp_path / "page.html"
    files = ["--json", str(tmp_path / "report.json"), "--csv", str(tmp_path / "classes.csv")]
    assert main([*arguments, "--row", "clip-es/train/crf", "--out", str(page), *files]) == 0
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["mean_iou"] == 1 and written["protocol"]["n_images"] == 2
    absent = [name for name, row in written["classes"].items() if row["iou"] is None]  # no NaN
    frame = pd.read_csv(tmp_path / "classes.csv", index_col="class")
    assert list(frame.index) == list(written["classes"])
    assert absent and frame.loc[absent, "iou"].isna().all() and frame["pixels"].sum() > 0
    printed = capsys.readouterr().out
    assert "mIoU 100.0 %" in printed and "published: 75 (mIoU, percent) of VOC 2012 tr" in printed
    assert "other in ours: n_images: 2, there 1464" in printed
    assert "Ours beside what is published" in page.read_text(encoding="utf-8")


def test_some_images_have_a_ground_truth_and_names_have_signs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine" / "masks").mkdir(parents=True)
    for name in "abcdef":
        Image.new("RGB", (32, 32)).save(tmp_path / "mine" / f"{name}.jpg")
        Image.new("L", (32, 32), 1).save(tmp_path / "mine" / "masks" / f"{name}.png")
    lines = [f"{name}.jpg,{'b' if name == 'f' else '$x_$'}" for name in "abcdef"]
    (tmp_path / "mine" / "labels.csv").write_text("\n".join(["file,labels", *lines]))
    shutil.copytree(tmp_path / "mine" / "masks", tmp_path / "made")
    (tmp_path / "mine" / "masks" / "a.png").unlink()
    options = {"data": "folder", "root": "~/mine"}
    report = run_evaluate("~/made", **options, json="~/r.json")
    assert report.protocol.n_images == 5 and (tmp_path / "r.json").is_file()
    assert "$x_$" in (tmp_path / "made" / "report.html").read_text(encoding="utf-8")
    file = export_masks(
        load_folder_masks(tmp_path / "mine"), report.classes[1:], tmp_path / "m.json", to="coco-rle"
    )
    run_evaluate(file, **options)
    assert (tmp_path / "report.html").is_file()
    for mask in (tmp_path / "mine" / "masks").glob("*.png"):
        Image.new("L", (32, 32), 255).save(mask)
    with (
        pytest.warns(UserWarning, match="no target has a pixel of a class"),
        pytest.raises(ValueError, match="255 everywhere, so there is nothing to score"),
    ):
        run_evaluate("~/made", **options)


def cells(page, caption):
    """Rows of the table below a heading."""
    table = re.search(rf"<h2>{re.escape(caption)}</h2>(.*?)</table>", page, re.DOTALL).group(1)
    cell = r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>"
    return [re.findall(cell, row) for row in table.split("</tr>")[:-1]]


def test_the_page_needs_nothing_beside_itself(voc, tmp_path, capsys):
    write_masks(load_voc(voc, "train"), recipe, tmp_path / "out", made_by=MADE, shown=False)
    options = {"root": voc, "split": "train", "row": "clims/train/maps"}
    report = run_evaluate(tmp_path / "out", **options)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    kinds = cells(page, "IoU and what each kind of error takes from it, in percent")
    assert [tuple(row) for row in kinds[1:]] == report.rows()
    assert sum(map(float, kinds[-1][1:])) == pytest.approx(100, abs=0.3)
    rows = cells(page, "Ours beside what is published, percent")
    ours = {row[0]: row[1:] for row in rows[1:]}["clims/train/maps"]
    assert ours[:2] == ["56.6", f"{100 * report.mean_iou:.1f}"]
    assert ours[-1] == "n_images: 2, there 1464; background: constant 0.3, there constant 0.15"
    assert "few images" in page and "worst images" in page
    assert len(re.findall(r'<img alt="[^"]{20,}" src="data:image/png', page)) == 3
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_best_power_of_soft_maps(tmp_path, capsys):
    world = PaperWorld(4, split="train")
    rules = [BackgroundRule(power=p) for p in (1, 3)]

    def maps_of(images, labels):
        return labels[:, :, None, None] * (1 - images.mean(1, keepdim=True)).half().float()

    options = {"made_by": MADE, "shown": False}
    write_masks(world, Pipeline(maps_of), tmp_path / "out", maps=True, **options)
    report = run_evaluate(tmp_path / "out", data="paper", limit=4, power=[1, 3])
    swept = sweep_background(maps_of, world, world.masks, rules=rules, shown=False)
    assert report.mean_iou == pytest.approx(max(swept.values()))
    best = f"the best of the powers 1 to 3, chosen here: {best_rule(swept)}"
    assert report.protocol.background == best
    with pytest.raises(FileNotFoundError, match="give the run --maps"):
        write_masks(world, recipe, tmp_path / "hard", made_by=MADE, shown=False)
        run_evaluate(tmp_path / "hard", data="paper", limit=4, power=[1, 3])


def test_what_is_missing_is_said(voc, tmp_path, capsys):
    (voc / "JPEGImages" / "val_1.jpg").unlink()
    write_masks(load_voc(voc, "val"), recipe, tmp_path / "out", made_by=MADE, shown=False)
    assert main(["evaluate", str(tmp_path / "out"), "--root", str(voc), "--split", "val"]) == 2
    assert "1 of 2 images have no mask, the first is 'val_1'" in capsys.readouterr().err
