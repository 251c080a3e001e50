"""Masks of anybody: judged with ties, refused by name, exported for other programs."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from wsss_kit.commands.compare import run_compare, run_export
from wsss_kit.commands.line import main
from wsss_kit.commands.masks import run_masks
from wsss_kit.data.exchange import open_foreign
from wsss_kit.data.export import export_masks
from wsss_kit.data.images import mask_png
from wsss_kit.evaluation import Protocol, compare_reports, evaluate
from wsss_kit.paperworld import PaperWorld
from wsss_kit.widgets import ErrorAtlas

WORLD = PaperWorld(24, split="val")
OF_WORLD = {"data": "paper", "split": "val", "limit": len(WORLD)}


def torn(share, seed):
    """The ground truth, of which a share of the blocks of 8 x 8 pixels is missing."""
    chance, masks = torch.Generator().manual_seed(seed), {}
    for name in WORLD.names:
        gone = torch.rand(12, 12, generator=chance) < share
        masks[name] = WORLD.masks[name].masked_fill(gone.kron(torch.ones(8, 8).bool()), 0)
    return masks


def write(masks, folder, kind="palette"):
    """Write masks as another program would, and return the place."""
    folder.mkdir(parents=True)
    for name, mask in masks.items():
        if kind == "palette":
            (folder / f"{name}.png").write_bytes(mask_png(mask))
        elif kind == "grey":
            Image.fromarray(mask.byte().numpy()).save(folder / f"{name}.png")
        elif kind == "npy":
            np.save(folder / f"{name}.npy", mask.byte().numpy())
    if kind == "npz":
        np.savez(folder / "all.npz", **{name: mask.numpy() for name, mask in masks.items()})
        return folder / "all.npz"
    return export_masks(masks, WORLD.classes, folder / "c.json", to=kind) if "-" in kind else folder


def test_four_folders_of_which_two_are_equal_but_for_noise(tmp_path, capsys):
    kinds = {"one": ("palette", 0.3, 1), "other": ("npy", 0.3, 2), "worse": ("coco-rle", 0.5, 3)}
    kinds["better"] = ("grey", 0.1, 4)
    sets = {name: torn(share, seed) for name, (_, share, seed) in kinds.items()}
    places = [f"{n}={write(sets[n], tmp_path / n, kind)}" for n, (kind, *_) in kinds.items()]
    judged = run_compare(masks=places, out=tmp_path / "out", **OF_WORLD)
    assert judged.ranks == {"better": 1, "one": 2, "other": 2, "worse": 4}
    options = {"classes": WORLD.classes, "protocol": Protocol("PaperWorld", "val")}
    reports = {n: evaluate(masks, WORLD.masks, **options) for n, masks in sets.items()}
    assert len(judged.pairs) == 6
    for (first, second), found in judged.pairs.items():
        expected = compare_reports(reports[first], reports[second])
        assert (found.difference, found.interval) == (expected.difference, expected.interval)
    low, high = judged.pairs["one", "other"].interval
    assert low < 0 < high
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in ("1. better", "2. one", "2. other", "4. worse", "<td>tie</td>", "missed"):
        assert text in page, text
    assert (tmp_path / "out" / "ranks.csv").read_text().startswith("masks,rank,mean_iou,low,high")
    assert "better" in capsys.readouterr().out
    assert ErrorAtlas(WORLD, sets, WORLD.masks, judged.reports).problem == ""  # the best first


def test_without_ground_truth_there_is_agreement_and_no_rank(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    sets = {"one": torn(0.3, 1), "other": torn(0.3, 2), "third": torn(0.3, 3)}
    for sample in WORLD:
        pixels = (255 * sample.image.permute(1, 2, 0)).round().byte().numpy()
        Image.fromarray(pixels).save(images / f"{sample.name}.png")
    sets["one"][WORLD.names[0]][:4] = 255
    places = [f"{n}={write(masks, tmp_path / n, 'npz')}" for n, masks in sets.items()]
    options = {"classes": WORLD.classes, "out": tmp_path / "out"}
    found = run_compare(images, masks=places, **options)
    stacked = {n: torch.stack([m[i] for i in WORLD.names]) for n, m in sets.items()}
    for i, j in combinations(range(3), 2):
        one, other = stacked[found.names[i]], stacked[found.names[j]]
        assert found.pixels[i, j] == pytest.approx((one == other).double().mean().item())
        sure, ious = (one != 255) & (other != 255), []
        for value in range(1 + len(WORLD.classes)):
            hits = ((one == value) & (other == value) & sure).sum()
            ious.append((hits / (((one == value) | (other == value)) & sure).sum()).item())
        assert found.iou[i, j] == pytest.approx(np.nanmean(ious), abs=1e-6)
    name = found.most_disputed[0][0]
    unequal = [sets[a][name] != sets[b][name] for a, b in combinations(sets, 2)]
    expected = torch.stack(unequal).double().mean().item()
    assert found.images[name] == pytest.approx(expected) == max(found.images.values())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "nothing here says which set is better" in page and "<td>tie" not in page
    with pytest.raises(ValueError, match="less has no mask of 1 of 24 images"):
        write({n: m for n, m in sets["one"].items() if n != WORLD.names[3]}, tmp_path / "less")
        run_compare(images, masks=[places[0], f"less={tmp_path / 'less'}"], **options)


def test_names_are_matched_and_a_folder_of_masks_is_the_ground_truth(tmp_path):
    """Accents that are written apart, endings in capitals, folders, doubt in one set of three."""
    images, names = tmp_path / "images", ["a.v2", "sub/e\u0301te\u0301", "IMG 01"]
    for name, ending in zip(names, (".JPG", ".png", ".bmp"), strict=True):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(images / f"{name}{ending}")
    truth = torch.zeros(6, 8).long()
    truth[:, :4] = 1
    doubtful, shifted = truth.clone(), truth.roll(1, 1)
    doubtful[0, :2] = 255
    sets = {"masks": truth, "doubt": doubtful, "shifted": shifted, "same": truth}
    for name, mask in sets.items():
        folder = images / "masks" if name == "masks" else tmp_path / name
        folder.mkdir()
        for image in ("a.v2.PNG", "\u00e9t\u00e9.png", "IMG 01.Png"):
            (folder / image).write_bytes(mask_png(mask))
    places = [f"{name}={tmp_path / name}" for name in sets if name != "masks"]
    options = {"classes": ["cat", "dog"], "out": tmp_path / "out"}
    judged = run_compare(images, masks=places, **options)
    assert {n: round(r.mean_iou, 3) for n, r in judged.reports.items()} == {
        "same": 1.0,
        "doubt": round(np.mean([24 / 26, 22 / 24]), 3),
        "shifted": round(np.mean([18 / 30, 18 / 30]), 3),
    }
    assert judged.reports["doubt"].protocol.predicted_255 == pytest.approx(2 / 48)
    assert judged.ranks == {"same": 1, "doubt": 2, "shifted": 3}
    alone = run_compare(images, masks=places, **{**options, "limit": 1})
    assert set(alone.ranks.values()) == {1}  # one image shows no difference
    (tmp_path / "same" / "a.v2.npy").write_bytes((tmp_path / "same" / "a.v2.PNG").read_bytes())
    with pytest.raises(ValueError, match=r"same: image 'a\.v2' has two masks, a\.v2\.PNG and a\.v"):
        run_compare(images, masks=places, **options)


def test_methods_of_the_kit_beside_foreign_masks(tmp_path):
    place, options = write(torn(0.2, 1), tmp_path / "mine"), {**OF_WORLD, "limit": 6}
    options |= {"masks": [f"mine={place}"], "out": tmp_path / "out", "device": "cpu"}
    judged = run_compare(methods=["cam", "clip-es"], **options)
    assert set(judged.reports) == {"mine", "cam", "clip-es"} and judged.ranks["mine"] == 1
    assert judged.reports["cam"].protocol.preset == "clean"
    with pytest.raises(ValueError, match="learned from other images or labels"):
        run_compare(methods=["cam"], **{**options, "limit": 5})
    again = run_compare(methods=["cam", "clip-es"], **options)  # nothing is made twice
    assert again.reports["cam"].mean_iou == judged.reports["cam"].mean_iou


def changed(folder, change):
    """Change the first mask of a folder, as an array of values."""
    file = folder / f"{WORLD.names[0]}.png"
    values = np.array(Image.open(file))
    file.unlink()
    change(folder / WORLD.names[0], values)


def as_palette(path, values):
    image = Image.fromarray(np.where(values == 0, 2, values))
    image.putpalette(np.roll(np.array(Image.open(write_one(path)).getpalette()), 6).tolist())
    image.save(f"{path}.png")


def write_one(path):
    Path(f"{path}.tmp.png").write_bytes(mask_png(torch.tensor([[0, 1]])))
    return f"{path}.tmp.png"


def every(change):
    """Change every mask of a folder by a function of its values."""

    def apply(folder):
        for file in folder.glob("*.png"):
            Image.fromarray(change(np.array(Image.open(file)))).save(file)

    return apply


def rotate(values):
    """Shift every class by one: the order of another class list."""
    return np.where(values == 0, 0, 1 + values % 8).astype(np.uint8)


WRONG = {
    "nothing there": (
        lambda f: [p.unlink() for p in f.iterdir()],
        "holds no PNG and no .npy, and no mask",
    ),
    "other names": (
        lambda f: [p.rename(f / f"{p.stem}_mask.png") for p in [*f.iterdir()]],
        "holds val_0_000000_mask.png.*expected one of 'val_0_000000'",
    ),
    "one is missing": (lambda f: (f / f"{WORLD.names[3]}.png").unlink(), "1 of 24 images have no"),
    "another size": (
        lambda f: changed(f, lambda p, v: Image.fromarray(v[1:]).save(f"{p}.png")),
        "95x96 pixels .* but its image is 96x96",
    ),
    "a JPEG": (
        lambda f: changed(f, lambda p, v: Image.fromarray(v).save(f"{p}.png", "JPEG")),
        "is a JPEG, which alters class ids",
    ),
    "strange colours": (
        lambda f: changed(f, lambda p, v: Image.fromarray(v * 9).convert("RGB").save(f"{p}.png")),
        "colours outside PASCAL VOC's palette",
    ),
    "a permuted palette": (lambda f: changed(f, as_palette), "its order is another"),
    "no class": (every(lambda v: v + 3), r"has values \[9\].*expected 0 or 1 to 8"),
    "objects as 255": (
        every(lambda v: np.where(v > 0, 255, 0).astype(np.uint8)),
        "all objects are 255",
    ),
    "background as 255": (
        every(lambda v: np.where(v == 0, 255, v).astype(np.uint8)),
        "% of the pixels are 255",
    ),
    "another order of classes": (every(rotate), "value 2 lies on boat|stand in another order"),
    "damaged": (
        lambda f: (f / f"{WORLD.names[2]}.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
        "does not decode as an image|damaged or cut short",
    ),
    "scores": (
        lambda f: changed(f, lambda p, v: np.save(f"{p}.npy", np.zeros((9, 96, 96), np.float32))),
        r"float32 of shape \(9, 96, 96\), expected integers",
    ),
    "two of one image": (
        lambda f: np.save(f / f"{WORLD.names[0]}.npy", np.zeros((96, 96), np.uint8)),
        "image 'val_0_000000' has two masks",
    ),
    "a run that was stopped": (
        lambda f: (f / "protocol.json").write_text("{}"),
        "the run has not ended",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_folders_that_do_not_fit_are_refused_by_name(tmp_path, capsys, wrong):
    damage, expected = WRONG[wrong]
    good, bad = (write(torn(0.1, 1), tmp_path / name) for name in ("good", "bad"))
    damage(bad)
    places = ["--masks", f"good={good}", f"their={bad}", "--out", str(tmp_path / "out")]
    of_world = ["--data", "paper", "--split", "val", "--limit", str(len(WORLD))]
    assert main(["compare", *places, *of_world]) == 2
    problem = capsys.readouterr().err
    assert "wsss_kit compare: " in problem and ("their: " in problem or "bad" in problem)
    with pytest.raises(ValueError, match=expected):
        raise ValueError(problem)


def test_pages_into_one_folder_keep_no_table_of_another_kind(tmp_path, capsys):
    images = tmp_path / "images"
    (images / "masks").mkdir(parents=True)
    places = []
    for name in WORLD.names[:2]:
        Image.new("RGB", (96, 96)).save(images / f"{name}.jpg")
    for name in ("one", "other"):
        places.append(f"{name}={write(torn(0.1, 1), tmp_path / name)}")
    options = {"classes": WORLD.classes, "out": tmp_path / "out"}
    tables = lambda: sorted(path.name for path in (tmp_path / "out").glob("*.csv"))  # noqa: E731
    run_compare(images, masks=places, **options)  # no file in masks/, so no ground truth
    assert tables() == ["agreement.csv"]
    run_compare(images, masks=places, truth=tmp_path / "one", **options)
    assert tables() == ["differences.csv", "ranks.csv"]
    (tmp_path / "one").rename(images / "one")
    for place, problem in (
        ("ground truth=x", "a set is called 'ground truth'"),
        (f"one={images / 'one'}", "one lies in .*images, all of whose images are compared"),
    ):
        with pytest.raises(ValueError, match=problem):
            run_compare(images, masks=[place, places[1]], **options)
    (images / "labels.csv").write_text(f"file,labels\n{WORLD.names[0]}.jpg,boat\n")
    with pytest.raises(ValueError, match="of the labels boat; methods need those of the labels"):
        run_compare(images, masks=[places[1]], methods=["cam"], **options)


JSON = {
    "the images are called": {"images": [{"id": 1, "file_name": None}]},
    "has two masks": {
        "images": [{"id": i, "file_name": f"{i}/{WORLD.names[0]}.jpg"} for i in range(1, 25)]
    },
    "no class 'yak'": {"categories": [{"id": c, "name": "yak"} for c in range(9)]},
    "score None": {
        "annotations": [{"image_id": 1, "category_id": 1, "score": None, "segmentation": {}}]
    },
    "image 70, which": {"annotations": [{"image_id": 70, "category_id": 1}]},
    "category 99": {"annotations": [{"image_id": 1, "category_id": 99}]},
    "KeyError: 'segmentation'": {"annotations": [{"image_id": 1, "category_id": 1}]},
    r"size \[4, 4\]": {
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": {"size": [4, 4], "counts": [16]}}
        ]
    },
}


@pytest.mark.parametrize("expected", JSON)
def test_a_damaged_coco_file_is_refused(tmp_path, expected):
    file = export_masks(torn(0, 0), WORLD.classes, tmp_path / "c.json", to="coco-rle")
    file.write_text(json.dumps({**json.loads(file.read_text()), **JSON[expected]}))
    with pytest.raises(ValueError, match=expected):
        masks = open_foreign(file, WORLD)
        print(masks[WORLD.names[0]])


def test_results_without_categories_and_the_surer_region_on_top(tmp_path):
    def region(value, score, inside):
        runs = coco.encode(np.asfortranarray(inside.astype(np.uint8)))
        runs["counts"] = runs["counts"].decode()
        of_image = {"image_id": WORLD.names[0], "category_id": value, "score": score}
        return {**of_image, "segmentation": runs}

    whole, half = np.ones((96, 96)), np.indices((96, 96))[1] < 48
    file = tmp_path / "results.json"
    file.write_text(json.dumps([region(3, 0.9, half), region(2, 0.1, whole)]))
    masks = open_foreign(file, WORLD)
    assert np.array_equal(masks[WORLD.names[0]], np.where(half, 3, 2))
    assert not masks[WORLD.names[1]].any()
    assert len(open_foreign(file, WORLD[:3])) == 3
    with pytest.raises(ValueError, match=f"holds {WORLD.names[0]}, and no mask of an image"):
        open_foreign(file, WORLD[1:])


def unpacked(packed):
    """Decode Label Studio's brush, bit by bit as rle-pack of thi.ng does."""
    bits, place, out = "".join(f"{byte:08b}" for byte in packed), 0, []

    def take(n):
        nonlocal place
        place += n
        return int(bits[place - n : place], 2)

    length, word, sizes = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)]
    while len(out) < length:
        is_run, n = take(1), None
        n = 1 + take(sizes[take(2)])
        out += [take(word)] * n if is_run else [take(word) for _ in range(n)]
    return np.array(out)


def test_exports_are_decoded_to_the_same_bits(tmp_path):
    world = PaperWorld(200, split="val")
    masks = {name: world.masks[name].clone() for name in world.names}
    for name in world.names[::3]:
        masks[name][10:30, 5:50] = 255
    for name, mask in masks.items():
        (tmp_path / f"{name}.png").write_bytes(mask_png(mask))
    file = run_export(tmp_path, "coco-rle", classes=world.classes)
    data = json.loads(file.read_text())
    categories = {each["id"]: each["name"] for each in data["categories"]}
    assert categories == {**dict(enumerate(world.classes, 1)), 255: "doubt"}
    names = {each["id"]: Path(each["file_name"]).stem for each in data["images"]}
    drawn = {name: np.zeros((96, 96), int) for name in names.values()}
    for region in data["annotations"]:
        inside = coco.decode(region["segmentation"]).astype(bool)
        assert inside.sum() == region["area"]
        drawn[names[region["image_id"]]][inside] = region["category_id"]
    assert len(drawn) == 200
    assert all(np.array_equal(drawn[name], masks[name]) for name in masks)
    assert all(torch.equal(mask, masks[n]) for n, mask in open_foreign(file, world).items())
    options = {"classes": world.classes, "out": tmp_path / "ls.json"}
    tasks = json.loads(run_export(tmp_path, "label-studio", **options).read_text())
    for task in tasks[:6]:
        name, found = Path(task["data"]["image"]).stem.split("=")[-1], torch.zeros(96, 96)
        for result in task["predictions"][0]["result"]:
            (label,) = result["value"]["brushlabels"]
            value = 255 if label == "doubt" else 1 + world.classes.index(label)
            pixels = unpacked(result["value"]["rle"]).reshape(96, 96, 4)
            found[torch.from_numpy(pixels[..., 3] == 255)] = value
        assert torch.equal(found, masks[name].float())
    (task,) = json.loads(
        export_masks(
            {"a/x #1": masks[name]},
            world.classes,
            tmp_path / "q.json",
            to="label-studio",
            files={"a/x #1": "a/x #1.jpg"},
        ).read_text()
    )
    assert task["data"]["image"] == "/data/local-files/?d=a/x%20%231.jpg"
    wide = {"wide": torch.ones(300, 400).long()}  # a run longer than its 16 bits
    task = json.loads(export_masks(wide, ["x"], tmp_path / "w.json", to="label-studio").read_text())
    (result,) = task[0]["predictions"][0]["result"]
    assert unpacked(result["value"]["rle"]).tolist() == [255] * 480_000


def test_masks_export_when_they_are_written_and_what_is_missing_is_said(tmp_path, capsys):
    for name in ("one/x", "other/x"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "mine" / f"{name}.png")
    (tmp_path / "mine" / "labels.csv").write_text("file,labels\none/x.png,cat\nother/x.png,cat\n")
    options = {"data": "folder", "root": tmp_path / "mine", "clip": "paper", "device": "cpu"}
    with pytest.warns(UserWarning, match="never read 'origami'"):
        run_masks("clip-es", tmp_path / "nested", export="coco-rle", **options)
    listed = json.loads((tmp_path / "nested" / "coco-rle.json").read_text())["images"]
    assert [each["file_name"] for each in listed] == ["one/x.png", "other/x.png"]
    run_masks("clims", tmp_path, data="paper", limit=2, export="coco-rle", device="cpu")
    masks = open_foreign(tmp_path / "coco-rle.json", PaperWorld(2, split="train"))
    assert len(masks) == 2
    for wrong, words in (("yaml", "expected one of coco-rle, label-studio"), ("coco-rle", "")):
        assert main(["export", str(tmp_path), "--to", wrong]) == (2 if words else 0)
        assert words in capsys.readouterr().err
    (tmp_path / "own").mkdir()
    assert main(["export", str(tmp_path / "own"), "--to", "coco-rle"]) == 2
    assert "holds no mask; expected NAME.png and --classes" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"'cat' and 'cat', expected different words"):
        export_masks(dict(masks), ["cat", "cat"], tmp_path / "twice.json", to="coco-rle")
    with pytest.raises(ValueError, match=r"the mask of train_0_0.* holds \d, expected 0 or one of"):
        export_masks(dict(masks), ["cat"], tmp_path / "few.json", to="coco-rle")
    for words, expected in (
        (["--masks", "a=b"], "the sets of masks are a; expected two or more with different names"),
        (["--masks", "a", "b=c"], "--masks is 'a', expected NAME=PLACE"),
        (["--masks", f"a={tmp_path / 'x'}", "b=c"], "there is no"),
    ):
        assert main(["compare", "--data", "paper", "--out", str(tmp_path / "o"), *words]) == 2
        assert expected in capsys.readouterr().err
