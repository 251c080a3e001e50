"""Anyone's own images, and the errors about a table or masks that are not right."""

import shutil
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_kit.classes import palette
from wsss_kit.data import load_folder, load_folder_masks, open_dataset
from wsss_kit.data.folder import open_images

TABLE = "file,labels\ncat1.jpg,cat;sofa\ngarden/dog1.png,dog\nwall.jpg,\n"
NAMES = ("cat1", "garden/dog1", "wall")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "pets"
    (root / "garden").mkdir(parents=True)
    (root / "masks").mkdir()
    for file in ("cat1.jpg", "garden/dog1.png", "wall.jpg"):
        Image.new("RGB", (6, 4), "white").save(root / file)
    put_mask(root, "cat1.png", 3)
    (root / "labels.csv").write_text(TABLE)
    return root


def put_mask(root, name, value, size=(6, 4)):
    Image.new("L", size, value).save(root / "masks" / name)


def write(root, *rows, header="file,labels"):
    (root / "labels.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")


def test_samples(root):
    samples = load_folder(str(root))
    assert samples.classes == ("cat", "dog", "sofa") and samples.names == NAMES
    assert samples.image_labels().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert samples[1].image.shape == (3, 4, 6) and samples[0].labels.dtype == torch.float32
    assert samples[1:].classes == samples.classes and samples[1:][0].name == "garden/dog1"
    ordered = load_folder(root, classes=["sofa", "dog", "cat", "bird"])
    assert ordered[0].labels.tolist() == [1, 0, 1, 0]


HABITS = [
    b"\xef\xbb\xbf" + TABLE.encode(),
    TABLE.replace("\n", "\r\n").encode(),
    TABLE.replace("garden/", "garden\\").encode(),
    b"File , Labels\n" + TABLE.split("\n", 1)[1].replace(";", " ; ").encode() + b"\n,\n\n",
]


@pytest.mark.parametrize("data", HABITS)
def test_harmless_habits_of_spreadsheets(root, data):
    (root / "labels.csv").write_bytes(data)
    samples = load_folder(root)
    assert samples.names == NAMES and samples.classes == ("cat", "dog", "sofa")


def test_bad_rows_are_reported_together(root):
    bad = [f"wall.jpg,bad{i}" for i in range(4)]
    write(root, "cat1.jpg,cat", "cat1.jpg,cat", "lost.jpg,cow", "cat1.jpg;cat", *bad)
    with pytest.raises(ValueError, match="has 11 bad entries, correct and load again") as caught:
        load_folder(root, classes=["cat"])
    message = str(caught.value)
    lines = [int(line.split()[1][:-1]) for line in message.split("\n") if "  line " in line]
    assert lines == [3, 4, 4, 5, 6] and message.endswith("\n  and 6 more")


BAD_ROWS = [
    ("cat1.jpg,", r"line 3: 'cat1\.jpg' is named twice, first in line 2"),
    ("./cat1.jpg,", r"line 3: 'cat1\.jpg' is named twice, first in line 2"),
    ("cat1.png,", r"line 3: 'cat1\.png' and 'cat1\.jpg' of line 2 are both called 'cat1'"),
    ("wall.jpg,cat,dog", "line 3: columns: 3, expected 2"),
    ("wall.jpg;cat", "line 3: columns: 1, expected 2"),
    (",cat", "line 3: file '' is no path inside the folder"),
    ("../wall.jpg,cat", r"line 3: file '\.\./wall\.jpg' is no path inside the folder"),
    ("/wall.jpg,cat", "line 3: file '/wall.jpg' is no path inside the folder"),
    ("wall.jpg,cat;Dgo", "line 3: unknown class 'Dgo', expected one of .*; closest: 'dog'$"),
]


@pytest.mark.parametrize(("row", "expected"), BAD_ROWS)
@pytest.mark.parametrize("load", [load_folder, load_folder_masks])
def test_bad_row(root, row, expected, load):
    Image.new("RGB", (6, 4)).save(root / "cat1.png")
    write(root, "cat1.jpg,cat", row)
    with pytest.raises(ValueError, match=r"labels\.csv has 1 bad entry.*\n  " + expected):
        load(root, classes=["cat", "dog"])


@pytest.mark.parametrize(("there", "listed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_may_be_written_with_its_letter_or_behind_it(root, there, listed):
    name, other = (unicodedata.normalize(form, "b\u00e9/caf\u00e9") for form in (there, listed))
    for folder, form in ((root, name), (root / "masks", other)):
        (folder / form).parent.mkdir()
    Image.new("RGB", (6, 4), "red").save(root / f"{name}.jpg")
    put_mask(root, f"{other}.png", 1)
    write(root, f"{other}.jpg,cat")
    samples = load_folder(root)
    assert samples.names == (name,) and samples[0].image[1].max() < 0.1 < samples[0].image[0].min()
    assert load_folder_masks(root)[name].unique().tolist() == [1]


def test_masks_of_other_programs_and_folders_behind_links(root, tmp_path):
    """A palette in another order is refused, arrays are read, links followed, and no circle."""
    np.save(root / "masks" / "wall.npy", np.full((4, 6), 2, np.int16))
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "deep" / "circle").symlink_to(tmp_path / "far")
    Image.new("L", (6, 4), 1).save(tmp_path / "far" / "deep" / "dog1.png")
    (root / "masks" / "linked").symlink_to(tmp_path / "far" / "deep")
    masks = load_folder_masks(root)
    assert [masks[name].unique().tolist() for name in NAMES] == [[3], [1], [2]]
    (root / "labels.csv").rename(root / "no.csv")
    (root / "more").symlink_to(tmp_path / "far")
    seen = open_images(root, ["cat"], inner=True).names
    assert sum("dog1" in name for name in seen) == 2 and len(seen) == 4
    (root / "no.csv").rename(root / "labels.csv")
    moved = Image.open(root / "masks" / "cat1.png").convert("P")
    moved.putpalette(palette()[[0, 2, 1, 4, 3]].flatten().tolist())
    moved.save(root / "masks" / "cat1.png")
    with pytest.raises(ValueError, match="gives 3 the colour of VOC's value 4"):
        load_folder_masks(root)["cat1"]
    shutil.rmtree(root / "masks")
    (root / "masks").mkdir()
    with pytest.raises(FileNotFoundError, match="masks is empty; expected"):
        load_folder_masks(root)


def test_missing_images(root):
    write(root, "CAT1.jpg,cat", f"nowhere/{'x' * 300}.jpg,cat")
    hint, last = r"'CAT1\.jpg'; closest: 'cat1\.jpg'", r"there is no image 'nowhere/x+\.jpg'$"
    with pytest.raises(FileNotFoundError, match=rf"no image {hint}\n  line 3: {last}"):
        load_folder(root)


def test_missing_folder_table_and_masks(root, tmp_path, monkeypatch):
    layout = r"no folder .*nowhere; expected\n.*/\n.*file,labels"
    with pytest.raises(FileNotFoundError, match=layout):
        load_folder(tmp_path / "nowhere")
    (root / "masks").rename(root / "mask")
    assert len(load_folder(root)) == 3
    with pytest.raises(FileNotFoundError, match="has no folder masks/; expected"):
        load_folder_masks(root)
    for value in (str(tmp_path / "nowhere"), "~nobody.there/x"):
        monkeypatch.setenv("WSSS_KIT_FOLDER", value)
        with pytest.raises(FileNotFoundError, match=f"WSSS_KIT_FOLDER is '{value}', expected a f"):
            open_dataset("folder")
    (root / "labels.csv").rename(root / "label.csv")
    with pytest.raises(FileNotFoundError, match=r"pets has no labels\.csv; expected\n.*pets/\n"):
        load_folder(root)


BAD_TABLES = [
    ("file;labels", "begins 'file;labels', expected 'file,labels': ',' between"),
    ("file\tlabels", "begins .*tlabels', expected 'file,labels': ',' between"),
    ("cat1.jpg,cat", "begins 'cat1.jpg,cat', expected 'file,labels'"),
    ("file,labels,note", "begins 'file,labels,note', expected 'file,labels'"),
    ("", "begins '', expected 'file,labels'"),
    ('file,labels\ncat1.jpg,"cat\n' + "b.png,dog\n" * 20000, r"line \d+ is no row .* quote"),
    (TABLE.encode("utf-16"), "line 1 is not UTF-8; save it"),
    ("file,labels\ncat1.jpg,b\u00e4r\n".encode("latin-1"), "line 2 is not UTF-8; save it"),
    ("file,labels\n", "names no image; add a line"),
    ("file,labels\ncat1.jpg,\n", "names no class; label an image, or pass classes="),
    ("file,labels\ncat1.jpg,cat\nwall.jpg,Cat\n", "has 'Cat' and 'cat', expected different"),
]


@pytest.mark.parametrize(("table", "expected"), BAD_TABLES)
def test_bad_tables(root, table, expected):
    (root / "labels.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(ValueError, match=expected):
        load_folder(root)


BAD_CLASSES = [
    ([], "is empty, expected at least one"),
    ([str(i) for i in range(255)], "has 255 names, expected at most 254"),
    (["cat", "Background"], "has 'Background', which .* leave labels"),
    *((["cat", name], "expected text, no spaces") for name in ("", " ", None, 3)),
]


@pytest.mark.parametrize(("classes", "message"), BAD_CLASSES)
def test_bad_classes(root, classes, message):
    with pytest.raises(ValueError, match=message):
        load_folder(root, classes=classes)


MARKED = ["cat|dog", "cat/dog", '"cat,dog"', "cat+dog", "cat & dog", "a\tb"]
MARKED += [f"cat{mark}dog" for mark in "\uff1b\u3001\uff0c\u061b\uff0f\uff5c\u060c"]


@pytest.mark.parametrize("label", MARKED)
def test_labels_with_another_mark_between_them(root, label):
    write(root, f"cat1.jpg,{label}")
    with pytest.raises(ValueError, match=r"line 2: .* looks like several classes; put ';' between"):
        load_folder(root)
    given = [label.strip('"'), "dog"]
    assert load_folder(root, classes=given)[0].labels.tolist() == [1, 0]


@pytest.mark.parametrize("mark", [" ", "-", ":", ". ", " and ", " or "])
def test_labels_whose_parts_are_classes_themselves(root, mark):
    both = f"garden/dog1.png,cat{mark}dog"
    write(root, "cat1.jpg,cat", "wall.jpg,dog", both)
    with pytest.raises(ValueError, match=f"line 4: 'cat{mark}dog' looks like several classes"):
        load_folder(root)
    write(root, "cat1.jpg,cat", "wall.jpg,sofa", both)  # where one part is no class, it is a name
    assert f"cat{mark}dog" in load_folder(root).classes


def test_masks(root):
    masks = load_folder_masks(root)
    assert list(masks) == ["cat1"] and masks["cat1"].unique().tolist() == [3]
    assert "wall" not in masks and masks.get("wall") is None
    with pytest.raises(KeyError, match=r"no mask for 'wall': expected it at .*masks/wall\.png"):
        masks["wall"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 6)).save(root / "cat1.jpg", exif=exif)  # the mask fits the rotated image
    assert masks["cat1"].shape == load_folder(root)[0].image.shape[1:] == (4, 6)


def test_masks_of_images_in_subfolders(root):
    put_mask(root, "dog1.png", 1)
    assert load_folder_masks(root)["garden/dog1"].unique().tolist() == [1]
    (root / "masks" / "garden").mkdir()
    put_mask(root, "garden/dog1.png", 2)
    assert load_folder_masks(root)["garden/dog1"].unique().tolist() == [2]
    Image.new("RGB", (6, 4)).save(root / "garden" / "cat1.jpg")
    write(root, "cat1.jpg,cat", "garden/cat1.jpg,cat", "garden/dog1.png,dog;sofa")
    assert list(load_folder_masks(root)) == ["cat1", "garden/dog1"], "cat1.png is not both cats'"


@pytest.mark.parametrize("ending", [".PNG", ".Png"])
def test_the_case_of_a_masks_ending_does_not_matter(root, ending):
    (root / "masks" / "cat1.png").rename(root / "masks" / f"cat1{ending}")
    assert load_folder_masks(root)["cat1"].unique().tolist() == [3]


@pytest.mark.parametrize("name", ["mask_cat1.png", "cat1.jpg", "1.png", "CAT1.png", ".hidden"])
def test_masks_none_of_which_belongs_to_an_image(root, name):
    (root / "masks" / "cat1.png").rename(root / "masks" / name)
    there = "" if name == ".hidden" else f"'{name}'"
    with pytest.raises(ValueError, match=rf"holds \[{there}\], and no PNG mask.*cat1\.png"):
        load_folder_masks(root)


def test_masks_some_of_which_belong_to_no_image(root):
    (root / "masks" / ".DS_Store").touch()  # what systems leave behind
    put_mask(root, "unlisted.png", 1)
    Image.new("RGB", (6, 4)).save(root / "unlisted.jpg")  # an image that the table leaves out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(load_folder_masks(root)) == ["cat1"]
    put_mask(root, "wal.png", 1)
    put_mask(root, "cat1_mask.png", 1)
    with pytest.warns(UserWarning, match=r"2 of 5 files in .*masks belong to no image, .*_mask"):
        assert list(load_folder_masks(root)) == ["cat1"]


def test_bad_files_are_reported_when_read(root):
    put_mask(root, "wall.png", 1, size=(4, 6))
    put_mask(root, "cat1.png", 4)
    (root / "masks" / "dog1.png").write_bytes(b"broken")
    (root / "garden" / "dog1.png").write_bytes(b"broken")
    samples, masks = load_folder(root), load_folder_masks(root)
    for read, message in (
        (lambda: masks["wall"], r"wall\.png is 6x4 pixels .* is 4x6"),
        (lambda: masks["cat1"], r"cat1\.png has values \[4\], expected 0 .*1 to 3"),
        (lambda: masks["garden/dog1"], r"dog1\.png does not decode"),
        (lambda: samples[1], r"dog1\.png does not decode"),
    ):
        with pytest.raises(ValueError, match=message):
            read()
