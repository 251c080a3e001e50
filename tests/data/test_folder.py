"""Anyone's own images, and what is said about a table that is not right."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image

from wsss_kit.data import load_folder, load_folder_masks

TABLE = "file,labels\ncat1.jpg,cat;sofa\ngarden/dog1.png,dog\nwall.jpg,\n"
NAMES = ("cat1", "garden/dog1", "wall")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "pets"
    (root / "garden").mkdir(parents=True)
    (root / "masks").mkdir()
    for file in ("cat1.jpg", "garden/dog1.png", "wall.jpg"):
        Image.new("RGB", (6, 4), "white").save(root / file)
    Image.new("L", (6, 4), 3).save(root / "masks" / "cat1.png")
    (root / "labels.csv").write_text(TABLE)
    return root


def write(root, *rows, header="file,labels"):
    (root / "labels.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")


def test_samples(root):
    samples = load_folder(str(root))
    assert samples.classes == ("cat", "dog", "sofa") and samples.names == NAMES
    assert samples.image_labels().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert samples[1].image.shape == (3, 4, 6) and samples[0].labels.dtype == torch.float32
    assert samples[1:].classes == samples.classes and samples[1:][0].name == "garden/dog1"


def test_given_classes_set_the_order(root):
    samples = load_folder(root, classes=["sofa", "dog", "cat", "bird"])
    assert samples[0].labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("garden/", "garden\\").encode(),
        b"File , Labels\n" + TABLE.split("\n", 1)[1].replace(";", " ; ").encode() + b"\n,\n\n",
    ],
)
def test_harmless_habits_of_spreadsheets(root, data):
    (root / "labels.csv").write_bytes(data)
    samples = load_folder(root)
    assert samples.names == NAMES and samples.classes == ("cat", "dog", "sofa")


def test_unknown_class(root):
    write(root, "cat1.jpg,cat", "wall.jpg,cat;Dgo")
    expected = (
        r"labels\.csv has 1 bad entry, correct and load again:\n"
        r"  line 3: unknown class 'Dgo', expected one of 'cat', 'dog'; closest: 'dog'$"
    )
    with pytest.raises(ValueError, match=expected):
        load_folder(root, classes=["cat", "dog"])


def test_bad_rows_are_reported_together(root):
    bad = [f"wall.jpg,bad{i}" for i in range(4)]
    write(root, "cat1.jpg,cat", "cat1.jpg,cat", "lost.jpg,cow", "cat1.jpg;cat", *bad)
    with pytest.raises(ValueError, match="has 11 bad entries") as caught:
        load_folder(root, classes=["cat"])
    message = str(caught.value)
    lines = [int(line.split()[1][:-1]) for line in message.split("\n") if "  line " in line]
    assert lines == [3, 4, 4, 5, 6] and message.endswith("\n  and 6 more")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("cat1.jpg,", r"line 3: 'cat1\.jpg' is named twice, first in line 2"),
        ("./cat1.jpg,", r"line 3: 'cat1\.jpg' is named twice, first in line 2"),
        ("cat1.png,", r"line 3: 'cat1\.png' and 'cat1\.jpg' of line 2 are both called 'cat1'"),
        ("wall.jpg,cat,dog", "line 3: columns: 3, expected 2"),
        ("wall.jpg;cat", "line 3: columns: 1, expected 2"),
        (",cat", "line 3: file '' is no path inside the folder"),
        ("../wall.jpg,cat", r"line 3: file '\.\./wall\.jpg' is no path inside the folder"),
        ("/wall.jpg,cat", "line 3: file '/wall.jpg' is no path inside the folder"),
    ],
)
@pytest.mark.parametrize("load", [load_folder, load_folder_masks])
def test_bad_row(root, row, expected, load):
    Image.new("RGB", (6, 4)).save(root / "cat1.png")
    write(root, "cat1.jpg,cat", row)
    with pytest.raises(ValueError, match=r"labels\.csv has 1 bad entry.*\n  " + expected):
        load(root)


def test_missing_images(root):
    write(root, "CAT1.jpg,cat", "nowhere/x.jpg,cat")
    expected = (
        r"line 2: there is no image 'CAT1\.jpg'; closest: 'cat1\.jpg'\n"
        r"  line 3: there is no image 'nowhere/x\.jpg'$"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        load_folder(root)


def test_missing_folder_table_and_masks(root, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no folder .*nowhere; expected\n.*/\n.*file,labels"
    ):
        load_folder(tmp_path / "nowhere")
    (root / "labels.csv").rename(root / "label.csv")
    with pytest.raises(FileNotFoundError, match=r"pets has no labels\.csv; expected\n.*pets/\n"):
        load_folder(root)
    (root / "label.csv").rename(root / "labels.csv")
    (root / "masks").rename(root / "mask")
    assert len(load_folder(root)) == 3
    with pytest.raises(FileNotFoundError, match="has no folder masks/; expected"):
        load_folder_masks(root)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("file;labels", "begins 'file;labels', expected 'file,labels': ',' between"),
        ("file\tlabels", "begins .*tlabels', expected 'file,labels': ',' between"),
        ("name,classes", "begins 'name,classes', expected 'file,labels': ',' between"),
        ("cat1.jpg,cat", "begins 'cat1.jpg,cat', expected 'file,labels'"),
        ("file,labels,note", "begins 'file,labels,note', expected 'file,labels'"),
        ("", "begins '', expected 'file,labels'"),
    ],
)
def test_wrong_header(root, header, expected):
    write(root, "cat1.jpg,cat", header=header)
    with pytest.raises(ValueError, match=r"labels\.csv " + expected):
        load_folder(root)


def test_wrong_encoding(root):
    (root / "labels.csv").write_bytes(TABLE.encode("utf-16"))
    with pytest.raises(ValueError, match=r"labels\.csv line 1 is not UTF-8; save it"):
        load_folder(root)
    (root / "labels.csv").write_bytes("file,labels\ncat1.jpg,b\u00e4r\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.csv line 2 is not UTF-8; save it"):
        load_folder(root)


def test_empty_tables(root):
    write(root)
    with pytest.raises(ValueError, match="names no image; add a line"):
        load_folder(root)
    write(root, "cat1.jpg,")
    with pytest.raises(ValueError, match="names no class; label an image, or pass classes="):
        load_folder(root)
    assert load_folder(root, classes=["cat"])[0].labels.tolist() == [0]


def test_classes_that_differ_in_case(root):
    write(root, "cat1.jpg,cat", "wall.jpg,Cat")
    with pytest.raises(ValueError, match=r"labels\.csv has 'Cat' and 'cat', expected different"):
        load_folder(root)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("cat", "is 'cat', expected a list"),
        ([], "is empty, expected at least one"),
        (["cat", "cat"], "has 'cat' and 'cat', expected different"),
        ([str(i) for i in range(255)], "has 255 classes, expected at most 254"),
        (["cat", "Background"], "'Background' is no class; leave labels"),
        *((["cat", name], "expected text, no spaces") for name in ("", " ", None, 3)),
    ],
)
def test_bad_classes(root, classes, message):
    with pytest.raises(ValueError, match=message):
        load_folder(root, classes=classes)


def test_masks(root):
    masks = load_folder_masks(root)
    assert list(masks) == ["cat1"] and masks["cat1"].unique().tolist() == [3]
    assert "wall" not in masks and masks.get("wall") is None
    with pytest.raises(KeyError, match=r"no mask for 'wall': expected it at .*masks/wall\.png"):
        masks["wall"]


def test_masks_of_images_in_subfolders(root):
    Image.new("L", (6, 4), 1).save(root / "masks" / "dog1.png")
    assert load_folder_masks(root)["garden/dog1"].unique().tolist() == [1]
    (root / "masks" / "garden").mkdir()
    Image.new("L", (6, 4), 2).save(root / "masks" / "garden" / "dog1.png")
    assert load_folder_masks(root)["garden/dog1"].unique().tolist() == [2]
    Image.new("RGB", (6, 4)).save(root / "garden" / "cat1.jpg")
    write(root, "cat1.jpg,cat", "garden/cat1.jpg,cat", "garden/dog1.png,dog;sofa")
    assert list(load_folder_masks(root)) == ["cat1", "garden/dog1"], "cat1.png is not both cats'"


@pytest.mark.parametrize("ending", [".PNG", ".Png", ".png"])
def test_the_case_of_a_masks_ending_does_not_matter(root, ending):
    (root / "masks" / "cat1.png").rename(root / "masks" / f"cat1{ending}")
    assert load_folder_masks(root)["cat1"].unique().tolist() == [3]


@pytest.mark.parametrize("name", ["mask_cat1.png", "cat1.jpg", "cat1.npy", "1.png", "CAT1.png"])
def test_masks_none_of_which_belongs_to_an_image(root, name):
    (root / "masks" / "cat1.png").rename(root / "masks" / name)
    with pytest.raises(ValueError, match=rf"holds \['{name}'\], .*expected .*cat1\.png"):
        load_folder_masks(root)


def test_an_empty_folder_of_masks(root):
    (root / "masks" / "cat1.png").unlink()
    with pytest.raises(ValueError, match=r"holds \[\], and no PNG mask of an image"):
        load_folder_masks(root)


def test_masks_some_of_which_belong_to_no_image(root):
    for name in ("wal.png", "cat1_mask.png"):
        Image.new("L", (6, 4), 1).save(root / "masks" / name)
    with pytest.warns(UserWarning, match=r"2 of 3 files in .*masks belong to no image, .*_mask"):
        assert list(load_folder_masks(root)) == ["cat1"]
    for name in ("wal.png", "cat1_mask.png"):
        (root / "masks" / name).unlink()
    (root / "masks" / ".DS_Store").touch()  # what systems leave behind
    Image.new("L", (6, 4), 1).save(root / "masks" / "unlisted.png")
    Image.new("RGB", (6, 4)).save(root / "unlisted.jpg")  # an image that the table leaves out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(load_folder_masks(root)) == ["cat1"]


@pytest.mark.parametrize(
    "label", ["cat|dog", "cat/dog", '"cat,dog"', "cat+dog", "cat & dog", "a\tb"]
)
def test_labels_with_another_mark_between_them(root, label):
    table = root / "labels.csv"
    table.write_text(f"file,labels\ncat1.jpg,{label}\n")
    message = label.strip('"')
    with pytest.raises(ValueError, match=r"line 2: .* looks like several classes; put ';' between"):
        load_folder(root)
    table.write_text(f"file,labels\ncat1.jpg,{label}\n")
    assert load_folder(root, classes=[message, "dog"])[0].labels.tolist() == [1, 0]


@pytest.mark.parametrize("mark", [" ", "-", ":", ". ", " and ", " or "])
def test_labels_whose_parts_are_classes_themselves(root, mark):
    table = root / "labels.csv"
    rows = ["cat1.jpg,cat", "wall.jpg,dog", f"garden/dog1.png,cat{mark}dog"]
    table.write_text("\n".join(["file,labels", *rows]))
    with pytest.raises(ValueError, match=f"line 4: 'cat{mark}dog' looks like several classes"):
        load_folder(root)
    rows[1] = "wall.jpg,sofa"  # where one part is no class, it is a name of two words
    table.write_text("\n".join(["file,labels", *rows]))
    assert f"cat{mark}dog" in load_folder(root).classes


def test_bad_masks_are_reported_when_read(root):
    Image.new("L", (4, 6), 1).save(root / "masks" / "wall.png")
    Image.new("L", (6, 4), 4).save(root / "masks" / "cat1.png")
    (root / "masks" / "dog1.png").write_bytes(b"broken")
    masks = load_folder_masks(root)
    with pytest.raises(ValueError, match=r"wall\.png is 6x4 pixels .* is 4x6"):
        masks["wall"]
    with pytest.raises(ValueError, match=r"cat1\.png has values \[4\], expected 0 .*1 to 3"):
        masks["cat1"]
    with pytest.raises(ValueError, match=r"dog1\.png does not decode"):
        masks["garden/dog1"]


def test_bad_image_is_reported_when_read(root):
    (root / "cat1.jpg").write_bytes((root / "cat1.jpg").read_bytes()[:200])
    samples = load_folder(root)
    assert samples[2].name == "wall"
    with pytest.raises(ValueError, match=r"cat1\.jpg (does not decode|is damaged or cut short)"):
        samples[0]


def test_a_mask_fits_the_rotated_image(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 6)).save(root / "cat1.jpg", exif=exif)
    assert load_folder_masks(root)["cat1"].shape == load_folder(root)[0].image.shape[1:] == (4, 6)
