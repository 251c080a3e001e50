"""VOC, COCO and pets as they are downloaded: labels, masks, and errors about what is missing."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycoco

from tests.commands.voc_layout import save_mask
from wsss_kit import data
from wsss_kit.classes import COCO_CLASSES, VOC_CLASSES

OBJECT = "<object><name>{}</name><difficult>{}</difficult>{}</object>"
PERSON, DOG, CAT = (VOC_CLASSES.index(name) for name in ("person", "dog", "cat"))
IDS = ("2007_000001", "2007_000002", "2007_000003")
SIZE = (12, 16)  # H, W of the images of COCO
NAMES = [f"COCO_train2014_{i:012d}" for i in (9, 25, 30)]
PETS = {
    "trainval": ("Abyssinian_1 1 1 1", "Abyssinian_2 1 1 1", "great_pyrenees_7 16 2 9"),
    "test": ("Sphynx_3 34 1 12",),
}


def save(path, values=None, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    black = np.zeros((*size[::-1], 3))
    Image.fromarray(np.array(black if values is None else values, np.uint8)).save(path)


def put_mask(folder, name, values, size=(6, 4)):
    folder.mkdir(exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    mask[0, : len(values)] = values
    save_mask(folder / f"{name}.png", mask)


@pytest.fixture
def voc(tmp_path):
    """Three images: a dog and a person; a cat; nothing."""
    root = tmp_path / "VOC2012"
    for part in ("Annotations", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    person = OBJECT.format("person", 0, "<part><name>head</name></part>")
    objects = (OBJECT.format("dog", 1, "") + person, OBJECT.format("cat", 0, ""), "")
    values = ((DOG + 1, PERSON + 1, 255), (CAT + 1,), ())
    for name, xml, ids in zip(IDS, objects, values, strict=True):
        save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{xml}</annotation>")
        put_mask(root / "SegmentationClass", name, ids)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(IDS) + "\n")
    return root


def annotation(number, image, category, outline, area):
    known = {"id": number, "image_id": image, "category_id": category, "area": area}
    return {**known, "segmentation": outline}


@pytest.fixture
def listed():
    """A dog on a person, a crowd, and an image without a thing."""
    dog, person = ([[x, y, X, y, X, Y, x, Y]] for x, y, X, Y in ((6, 4, 10, 8), (4, 2, 14, 10)))
    crowd = {"size": list(SIZE), "counts": [0, 24, 168]}  # COCO counts column by column
    return {
        "images": [
            {"id": i, "file_name": f"{name}.jpg", "height": 12, "width": 16}
            for i, name in zip((9, 25, 30), NAMES, strict=True)
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        "annotations": [
            annotation(1, 9, 18, dog, 16),
            annotation(2, 9, 1, person, 80),
            annotation(3, 25, 1, crowd, 24),
        ],
    }


@pytest.fixture
def coco(tmp_path, listed):
    for name in NAMES:
        save(tmp_path / "COCO2014" / "train2014" / f"{name}.jpg", size=SIZE[::-1])
    (tmp_path / "COCO2014" / "annotations").mkdir()
    write_listed(tmp_path / "COCO2014", listed)
    return tmp_path / "COCO2014"


def write_listed(root, listed):
    text = listed if isinstance(listed, str) else json.dumps(listed)
    (root / "annotations" / "instances_train2014.json").write_text(text)


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "pets"
    trimap = [[2, 2, 2, 2], [2, 3, 1, 3], [2, 3, 1, 3]]
    for split, lines in PETS.items():
        for line in lines:
            save(root / "images" / f"{line.split()[0]}.jpg", size=(4, 3))
            save(root / "annotations" / "trimaps" / f"{line.split()[0]}.png", trimap)
        rows = "\n".join(["#Image CLASS-ID SPECIES BREED ID", *lines])
        (root / "annotations" / f"{split}.txt").write_text(rows)
    return root


def classes_of(samples):
    return [set(sample.labels.nonzero().flatten().tolist()) for sample in samples]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_a_limit_is_a_count(voc, coco, pets, value):
    for load, root in ((data.load_voc, voc), (data.load_coco, coco), (data.load_pets, pets)):
        with pytest.raises(ValueError, match=f"limit is {value!r}, expected a whole number"):
            load(root, limit=value)


def test_voc_samples(voc):
    samples = data.load_voc(voc)
    assert samples.classes == VOC_CLASSES and samples.split == "train"
    first = samples[0]
    assert first.name == IDS[0] and first.image.shape == (3, 4, 6)
    assert first.image.dtype == first.labels.dtype == torch.float32
    # the difficult dog counts, the part of the person does not, the empty image stays in
    assert classes_of(samples) == [{DOG, PERSON}, {CAT}, set()]
    assert not hasattr(first, "mask")
    assert len(data.load_voc(voc, limit=2)) == 2 and len(data.load_voc(voc, limit=99)) == 3


@pytest.mark.parametrize("empty_folder", [False, True])
def test_labels_from_masks_are_the_same_and_read_once(voc, empty_folder):
    shutil.rmtree(voc / "Annotations")
    if empty_folder:
        (voc / "Annotations").mkdir()
    samples = data.load_voc(str(voc))
    assert classes_of(samples) == [{DOG, PERSON}, {CAT}, set()]
    shutil.rmtree(voc / "SegmentationClass")
    samples[1].labels.zero_()  # belongs to the caller
    assert classes_of(samples) == [{DOG, PERSON}, {CAT}, set()]


def test_samples_are_a_lazy_sequence(voc):
    samples = data.load_voc(voc)
    part = samples[1:]
    assert [sample.name for sample in part] == list(IDS[1:])
    assert part.classes == VOC_CLASSES and part.split == "train" and len(part[:1]) == 1
    assert samples[-1].name == IDS[2] and samples[np.int64(1)].name == IDS[1]
    assert torch.equal(samples.image_labels(), torch.stack([s.labels for s in samples]))
    assert samples[3:].image_labels().shape == (0, 20) and samples.size_of(IDS[0]) == (4, 6)
    assert pickle.loads(pickle.dumps(samples))[1].name == IDS[1]  # data loaders start processes
    assert repr(samples) == "LazySamples(3 images, 20 classes, split='train')"
    with pytest.raises(IndexError, match="image 3 was asked for, but there are 3"):
        samples[3]
    with pytest.raises(ValueError, match=r"\['9'\] are not among the 3 images"):
        samples.pick(["9"])
    (voc / "JPEGImages" / f"{IDS[0]}.jpg").write_bytes(b"broken")
    assert samples[1].name == IDS[1]
    with pytest.raises(ValueError, match=rf"{IDS[0]}\.jpg does not decode"):
        samples[0]


@pytest.mark.parametrize("above", [".", "VOCdevkit"])
def test_root_may_be_a_folder_above(voc, above):
    top = voc.parent
    if above == "VOCdevkit":
        (top / "VOCdevkit").mkdir()
        voc.rename(top / "VOCdevkit" / "VOC2012")
    assert len(data.load_voc(top)) == len(data.load_voc_masks(top)) == 3


PAIR = "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line", ["{}", "{}\r", "{}  1", "JPEGImages/{}.jpg", PAIR])
def test_split_lines(voc, line, encoding):
    text = "\n\n".join(line.format(name) for name in (*IDS, IDS[0]))
    (voc / "ImageSets/Segmentation/train_aug.txt").write_text(text, encoding=encoding)
    assert data.load_voc(voc, "train_aug").names == IDS


def test_a_space_may_be_part_of_a_name(voc):
    for folder, end in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (voc / folder / f"{IDS[0]}.{end}").rename(voc / folder / f"a 0.{end}")
    (voc / "ImageSets/Segmentation/train.txt").write_text(f"a 0\n{IDS[1]}  1\n")
    assert data.load_voc(voc).names == ("a 0", IDS[1])


def test_voc_masks(voc):
    masks = data.load_voc_masks(voc)
    assert list(masks) == list(IDS) and masks[IDS[0]].dtype == torch.int64
    assert masks[IDS[0]][0].tolist() == [DOG + 1, PERSON + 1, 255, 0, 0, 0]
    put_mask(voc / "SegmentationClassAug", IDS[0], (CAT + 1,))
    masks = data.load_voc_masks(voc)
    assert masks[IDS[0]][0, 0] == CAT + 1, "Aug goes first"
    assert masks[IDS[1]][0, 0] == CAT + 1, "the other folder fills in"
    assert "9" not in masks
    with pytest.raises(KeyError, match=r"no mask for '2007_00001'.*closest: '2007_000001'"):
        masks["2007_00001"]
    (voc / "SegmentationClass" / f"{IDS[1]}.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{IDS[1]} has no mask, expected .*train_aug"):
        masks[IDS[1]]


@pytest.mark.parametrize("load", [data.load_voc, data.load_voc_masks])
def test_missing_root_and_split(voc, tmp_path, load):
    layout = r"no VOC layout in .*expected\n .*nowhere/\n  +JPEGImages/"
    with pytest.raises(FileNotFoundError, match=layout):
        load(tmp_path / "nowhere")
    (voc / "ImageSets/Segmentation/val.txt").write_text(IDS[0])
    known = r"in .*the splits there are: train, val"
    with pytest.raises(FileNotFoundError, match=f"no split 'vall' {known}; closest: 'val'"):
        load(voc, "vall")
    with pytest.raises(FileNotFoundError, match=f"no split None {known}$"):
        load(voc, None)
    for content, message in (
        (b"\n", "empty, expected one image id a"),
        (b"\xe9t\xe9", "not UTF-8"),
    ):
        (voc / "ImageSets/Segmentation/val.txt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"val\.txt is {message}"):
            load(voc, "val")


def test_no_masks_and_no_annotations(voc):
    shutil.rmtree(voc / "SegmentationClass")
    assert len(data.load_voc(voc)) == 3
    with pytest.raises(FileNotFoundError, match="has no masks: neither"):
        data.load_voc_masks(voc)
    shutil.rmtree(voc / "Annotations")
    with pytest.raises(FileNotFoundError, match="neither Annotations/ nor masks to take labels"):
        data.load_voc(voc)


def test_bad_masks(voc):
    put_mask(voc / "SegmentationClass", IDS[0], (), size=(4, 6))
    put_mask(voc / "SegmentationClass", IDS[1], (21, 254))
    masks = data.load_voc_masks(voc)
    with pytest.raises(ValueError, match=r"is 6x4 pixels \(H x W\) but its image .* is 4x6"):
        masks[IDS[0]]
    with pytest.raises(ValueError, match=r"has values \[21, 254\], expected 0 .*1 to 20"):
        masks[IDS[1]]


@pytest.mark.real_data
def test_real_sample(voc_root):
    """437 and 149 photographs without annotations: their labels are their masks' class sets."""
    for split, count in (("train", 437), ("val", 149)):
        samples, masks = data.load_voc(voc_root, split), data.load_voc_masks(voc_root, split)
        assert len(samples) == len(masks) == count
        for i, (name, row) in enumerate(zip(samples.names, samples.image_labels(), strict=True)):
            stored = Image.open(voc_root / "SegmentationClassAug" / f"{name}.png")
            expected = {value for value, n in enumerate(stored.histogram()) if n} - {0, 255}
            assert {c + 1 for c in row.nonzero().flatten().tolist()} == expected
            assert i >= 20 or np.array_equal(masks[name].numpy(), np.asarray(stored))
        image = samples[0].image
        assert image.shape[1:] == masks[samples.names[0]].shape and 0.2 < image.mean() < 0.8


@pytest.mark.parametrize("deeper", [False, True])
def test_coco_labels_are_the_categories_and_images_without_are_left_out(coco, deeper):
    if deeper:
        (coco / "images").mkdir()
        (coco / "train2014").rename(coco / "images" / "train2014")
    samples = data.load_coco(coco)
    assert samples.names == tuple(NAMES[:2]) and samples.classes == COCO_CLASSES
    assert samples[0].image.shape == (3, *SIZE)
    person, dog = COCO_CLASSES.index("person"), COCO_CLASSES.index("dog")
    assert classes_of(samples) == [{person, dog}, {person}]
    assert data.load_coco(coco, limit=1).names == samples.names[:1]


def test_coco_masks_are_rendered_once_with_small_objects_on_top(coco, monkeypatch):
    masks, expected = data.load_coco_masks(coco), torch.zeros(SIZE, dtype=torch.int64)
    expected[2:10, 4:14] = 1 + COCO_CLASSES.index("person")
    expected[4:8, 6:10] = 1 + COCO_CLASSES.index("dog")
    assert torch.equal(masks[NAMES[0]], expected)
    crowd = masks[NAMES[1]]
    assert (crowd[:, :2] == expected[2, 4]).all() and not crowd[:, 2:].any()
    assert len(list((coco / "masks" / "train2014").glob("*.png"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(data.load_coco_masks.__globals__["_COCO"], "_rendered", None)
        assert torch.equal(data.load_coco_masks(coco)[NAMES[0]], expected)
    file = coco / "annotations" / "instances_train2014.json"
    file.write_text(file.read_text().replace('"area": 80', f'"area": 1{"0" * 400}'))
    (coco / "masks" / "train2014" / f"{NAMES[1]}.png").write_bytes(b"")
    again = data.load_coco_masks(coco)
    assert torch.equal(again[NAMES[1]], crowd) and again[NAMES[0]].shape == SIZE


def test_coco_errors(coco, listed):
    with pytest.raises(FileNotFoundError, match=r"(?s)no COCO 2014 in .*instances_train2014\.json"):
        data.load_coco(coco / "annotations")
    with pytest.raises(ValueError, match="split is 'test', expected one of train, val"):
        data.load_coco(coco, "test")
    other, leaving = {"id": 1, "name": "Dog"}, {"id": 9, "file_name": "../a.jpg"}
    for broken, message in (
        ("{", "is no whole JSON"),
        ({"images": []}, "has annotations None, expected"),
        (listed | {"categories": [other]}, "'Dog', no class of COCO; closest: 'dog'"),
        (listed | {"images": [leaving]}, "a name alone"),
        (listed | {"images": listed["images"] * 2}, "has image ids twice, such as 9"),
        (listed | {"images": []}, "image 9 and category 18, expected those that it lists"),
        (listed | {"images": 5}, "instances_train2014.json has images"),
        (listed | {"images": [{"id": 1}]}, "instances_train2014.json has .*images"),
        (listed | {"annotations": {}}, "instances_train2014.json has annotations"),
        (listed | {"categories": None}, "instances_train2014.json has categories"),
    ):
        write_listed(coco, broken)
        with pytest.raises(ValueError, match=message):
            data.load_coco(coco)


SIZED = {"size": list(SIZE)}
OUTLINES = [
    *([], [[1, 2]], "x", None, [[None, 0, 2, 0, 2, 2]], [[0, 0, 1e300, 0, 5, 5]]),
    *([[0, 0, 9, 9]], [[0, 0, 9, 9, 3]], {"counts": [1]}, SIZED, {**SIZED, "counts": [1, 2]}),
    *({**SIZED, "counts": "13"}, {**SIZED, "counts": [-1, 193]}),
    *([None], [["a"] * 6], [[[1]] * 6], [{}], {**SIZED, "counts": None}, {"size": None}, 5),
    {"size": [400000, 400000], "counts": [1, 2]},
]


@pytest.mark.parametrize("outline", OUTLINES, ids=str)
def test_an_outline_that_is_none_is_named(outline, coco, listed):
    listed["annotations"] = [annotation(7, 9, 18, outline, 3)]
    write_listed(coco, listed)
    with pytest.raises(ValueError, match=f"7 of {NAMES[0]} has no outline .it.* run lengths"):
        data.load_coco_masks(coco)[NAMES[0]]


def test_without_areas_and_sizes_what_the_outline_says_is_drawn(coco, listed):
    square = np.zeros(SIZE, np.uint8, order="F")
    square[2:7, 3:12] = 1
    run = {"size": list(SIZE), "counts": pycoco.encode(square)["counts"].decode()}
    entries = ((9, run), (25, [[3, 2, 12, 2, 12, 7, 3, 7]]))
    named = [{"id": i, "file_name": f"{NAMES[i == 25]}.jpg"} for i, _ in entries]
    drawn = [{"id": i, "image_id": i, "category_id": 1, "segmentation": o} for i, o in entries]
    write_listed(coco, listed | {"images": named, "annotations": drawn})
    masks = data.load_coco_masks(coco)
    assert all(torch.equal(masks[name], torch.from_numpy(square).long()) for name in NAMES[:2])


def test_pets_are_of_two_species_or_of_the_breeds_of_both_lists(pets):
    samples, test = data.load_pets(pets), data.load_pets(pets, "test")
    breeds = data.load_pets(pets, kind="breed")
    assert samples.classes == test.classes == ("cat", "dog") and test.names == ("Sphynx_3",)
    assert samples.names == ("Abyssinian_1", "great_pyrenees_7", "Abyssinian_2")  # round the breeds
    assert classes_of(samples) == [{0}, {1}, {0}] and samples[0].image.shape == (3, 3, 4)
    assert breeds.classes == ("Abyssinian", "Sphynx", "great pyrenees")
    assert classes_of(breeds) == [{0}, {2}, {0}]
    assert data.load_pets(pets, limit=2).names == samples.names[:2]


def test_a_trimap_is_a_mask_with_its_border_ignored(pets):
    for kind, value in (("species", 2), ("breed", 3)):
        mask = data.load_pets_masks(pets, kind=kind)["great_pyrenees_7"]
        assert mask.dtype == torch.int64
        assert mask.tolist() == [[0, 0, 0, 0], [0, 255, value, 255], [0, 255, value, 255]]


def test_pets_errors(pets):
    with pytest.raises(FileNotFoundError, match=r"(?s)no pets in .*images/Abyssinian"):
        data.load_pets(pets / "images")
    with pytest.raises(ValueError, match="split is 'train', expected one of trainval, test"):
        data.load_pets(pets, "train")
    with pytest.raises(ValueError, match="kind is 'breeds', expected one of species, breed"):
        data.load_pets(pets, kind="breeds")
    trimap, rows = pets / "annotations/trimaps/Abyssinian_1.png", pets / "annotations/test.txt"
    for values, message in (
        (np.zeros((3, 4)), r"holds \[0\], expected 1 \(pet\)"),
        (np.ones((2, 4)), r"2x4 pixels .* is 3x4, EXIF rotation counted"),
    ):
        save(trimap, values)
        with pytest.raises(ValueError, match=message):
            data.load_pets_masks(pets)["Abyssinian_1"]
    shutil.rmtree(trimap.parent)
    with pytest.raises(FileNotFoundError, match="has no annotations/trimaps/"):
        data.load_pets_masks(pets)
    odd = ("Abyssinian_100 1 3 1", "../x_1 1 1 1", "cat.jpg", "Abyssinian_1 1 12")
    for text, message in (
        *((f"\n{line}\n", r"test\.txt line 2 is .*expected as Abyssin") for line in odd),
        ("# nothing\n", "is empty, expected one image id a line"),
    ):
        rows.write_text(text)
        with pytest.raises(ValueError, match=message):
            data.load_pets(pets)
