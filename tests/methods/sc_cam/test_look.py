"""Looking into sub-categories: agreement, purity, exemplars, views and names."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from wsss_kit.cam import upsample
from wsss_kit.classes import labels_of
from wsss_kit.clip import load_clip
from wsss_kit.data import load_voc
from wsss_kit.methods.cam import CAM
from wsss_kit.methods.sc_cam import (
    SCCAM,
    agreement,
    class_features,
    exemplars,
    listed,
    name_subcategories,
    plane,
    purity,
    stability,
    subcategory_labels,
)
from wsss_kit.paperworld import PaperWorld
from wsss_kit.paperworld.measures import subtype_labels, subtype_names
from wsss_kit.paperworld.words import ANIMAL_STYLES, VEHICLE_STYLES


def one_hot(columns, width):
    result = torch.zeros(len(columns), width)
    for row, wanted in zip(result, columns, strict=True):
        row[list(wanted)] = 1
    return result


# -- agreement ------------------------------------------------------------------------------


def test_agreement_is_scikit_learns_over_images_with_one_of_each():
    """The first class has columns 0 and 1 here, 0 to 2 there; the last image has two of it."""
    first = one_hot([{0, 2}, {0, 3}, {1}, {1}, {0, 1}], 4)
    second = one_hot([{0, 3}, {1, 3}, {2}, {2}, {2}], 6)
    result = agreement(first, second, n_classes=2)
    assert result.nmi[0] == pytest.approx(normalized_mutual_info_score([0, 0, 1, 1], [0, 1, 2, 2]))
    assert result.ari[0] == pytest.approx(adjusted_rand_score([0, 0, 1, 1], [0, 1, 2, 2]))
    assert result.nmi[1] == pytest.approx(normalized_mutual_info_score([0, 1], [0, 0]))
    assert result.mean_nmi == pytest.approx(sum(result.nmi) / 2)


def test_a_class_that_one_image_shows_agrees_with_nothing():
    result = agreement(*[one_hot([{0}, {1}, {0, 2}], 4)] * 2, n_classes=2)
    assert result.nmi[0] == 1 and math.isnan(result.nmi[1]) and math.isnan(result.ari[1])
    assert result.mean_nmi == result.ari[0] == 1


def test_names_of_clusters_do_not_matter_and_noise_agrees_by_chance():
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(3, (400,), generator=random)
    truth = torch.nn.functional.one_hot(rows, 3).float()
    assert agreement(truth, truth[:, [2, 0, 1]], n_classes=1).ari[0] == pytest.approx(1)
    noise = truth[torch.randperm(400, generator=random)]
    assert abs(agreement(truth, noise, n_classes=1).ari[0]) < 0.02


def test_stability_compares_each_round_with_the_one_before():
    rounds = [one_hot(each, 2) for each in ([{0}, {0}, {1}], [{0}, {1}, {1}], [{1}, {0}, {0}])]
    result = stability(rounds, n_classes=1)
    assert [round(each.ari[0], 6) for each in result] == [
        round(adjusted_rand_score([0, 0, 1], [0, 1, 1]), 6),
        1.0,
    ]
    assert stability(rounds[:1], n_classes=1) == []


def test_purity_counts_by_hand():
    """Column 0: kinds 0, 0, 1. Column 1: an image with two kinds, which does not count."""
    result = one_hot([{0}, {0}, {0}, {1}], 2)
    kinds = one_hot([{0}, {0}, {1}, {0, 1}], 2)
    counted = purity(result, kinds, n_classes=1)
    assert counted.share[0] == pytest.approx(2 / 3) and counted.share[1].isnan()
    assert counted.kind.tolist() == [0, -1] and counted.size.tolist() == [3, 0]
    second_class = purity(torch.cat([0 * result, result], 1), kinds.repeat(1, 2), n_classes=2)
    assert second_class.kind.tolist() == [-1, -1, 2, -1]


@pytest.mark.parametrize("compare", [agreement, purity])
def test_what_does_not_fit_is_refused(compare):
    two = one_hot([{0}, {1}], 2)
    with pytest.raises(ValueError, match="2 images and 1, expected the same"):
        compare(two, two[:1], n_classes=1)
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(M, 3 \* k\)"):
        compare(two, two, n_classes=3)


# -- exemplars and views --------------------------------------------------------------------


def test_exemplars_are_nearest_to_their_own_centre():
    random = torch.Generator().manual_seed(0)
    features, rows = torch.randn(30, 2, 5, generator=random), torch.arange(30)
    result = torch.zeros(30, 6)
    result[rows, rows % 3] = 1
    result[rows, 3 + rows % 2] = 1
    near = exemplars(features, result, n_classes=2, n=4)
    assert [len(each) for each in near] == [4, 4, 4, 4, 4, 0]
    mine = features[rows % 2 == 1, 1]
    distances = (features[:, 1] - mine.mean(0)).norm(dim=1)
    distances[rows % 2 == 0] = torch.inf
    assert near[4] == distances.argsort()[:4].tolist()
    shared = exemplars(features[:, 0], result, n_classes=2, n=50)
    assert sorted(shared[0]) == rows[rows % 3 == 0].tolist()  # no more than there are
    with pytest.raises(ValueError, match=r"features have shape \(29, 2, 5\) and sub-categories"):
        exemplars(features[1:], result, n_classes=2)


@pytest.mark.parametrize("how", ["pca", "tsne"])
def test_views_keep_groups_apart(how):
    random = torch.Generator().manual_seed(0)
    groups = torch.arange(40) % 2
    features = torch.randn(40, 12, generator=random) + 20 * groups[:, None]
    points = plane(features, how=how, seed=1)
    assert points.shape == (40, 2) and torch.equal(points, plane(features, how=how, seed=1))
    distances = torch.cdist(points, points)
    same = groups[:, None] == groups
    assert distances[same].max() < distances[~same].min()


def test_pca_keeps_distances_of_what_is_flat():
    flat = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    deep = torch.cat([flat, torch.zeros(9, 4)], 1)
    torch.testing.assert_close(torch.cdist(plane(deep), plane(deep)), torch.cdist(flat, flat))
    assert plane(flat[:, :1])[:, 1].abs().max() == 0
    with pytest.raises(ValueError, match="expected two rows at least"):
        plane(flat[:1])


# -- names ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    """A classifier on the paper backbone, its clusters, and the tiny CLIP."""
    world = PaperWorld(150, split="train")
    cam = CAM("paper", weights="web", preset="clean", scales=(1.0,), device="cpu")
    cam.fit(world, train_backbone=False, progress=False)
    options = {"features": "own_map", "unit_length": True, "shown": False}
    features = class_features(cam.backbone_, cam.head_.detach(), world, **options)
    clusters = subcategory_labels(features, labels_of(world), k=3)
    return load_clip("paper", device="cpu"), cam, world, clusters


WORDS = (*VEHICLE_STYLES, *ANIMAL_STYLES)


def test_pure_clusters_are_named_by_their_true_style(found):
    names = name_subcategories(*found, WORDS, shown=False)
    pure = purity(found[3], subtype_labels(found[2]), n_classes=8)
    wanted = [j for j in range(24) if pure.share[j] >= 0.7]
    right = [next(iter(names[j])) == subtype_names()[pure.kind[j]] for j in wanted]
    assert len(wanted) >= 16 and sum(right) >= 0.8 * len(wanted)


def test_the_shipped_clusters_have_their_true_names():
    """Those of the last round, over the first images that they were found in."""
    method, world = SCCAM.load("paper", device="cpu"), PaperWorld(1000, split="train")[:200]
    clusters = method.subcategories_[:200]
    names = name_subcategories(
        load_clip("paper", device="cpu"), method, world, clusters, WORDS, shown=False
    )
    pure = purity(clusters, subtype_labels(world), n_classes=8)
    wanted = [j for j in range(24) if pure.share[j] >= 0.7]
    right = [next(iter(names[j])) == subtype_names()[pure.kind[j]] for j in wanted]
    assert len(wanted) >= 20 and sum(right) >= 0.8 * len(wanted)
    called = listed(names, world.classes, 3)
    assert len(set(called)) == 24 and "wooden boat" in called


def test_names_equal_a_loop_over_images(found):
    clip, cam, world, clusters = found
    words = {"bird": WORDS, "cat": ("grey", "golden")}
    names = name_subcategories(clip, cam, world, clusters, words, template="the {}", shown=False)
    assert [len(each) for each in names] == [0] * 18 + [6] * 3 + [2] * 3
    c, texts = 7, clip.encode_text(["the grey cat", "the golden cat"])
    rows, means = clusters[:, 3 * c : 3 * c + 3], []
    for j in range(3):
        seen = []
        for i in rows[:, j].nonzero().flatten().tolist():
            image, labels = world[i].image[None], world[i].labels[None]
            shown = upsample(cam(image, labels).cams, image.shape[-2:])[0, c] >= 0.3
            vector = clip.encode_image(image * shown)[0]
            seen.append(
                (100 * vector / vector.norm() @ texts.T / 100 * clip.logit_scale).softmax(0)
            )
        means.append(torch.stack(seen).mean(0))
    lift = torch.stack(means) - torch.stack(means).mean(0)
    for j in range(3):
        assert names[21 + j]["grey cat"] == pytest.approx(lift[j, 0].item(), abs=1.1e-3)
        assert list(names[21 + j].values()) == sorted(names[21 + j].values(), reverse=True)


def test_clusters_without_images_have_no_name(found):
    clip, cam, world, _ = found
    few = world[:6]
    clusters = torch.zeros(6, 24)
    clusters[:, ::3] = labels_of(few)
    names = name_subcategories(clip, cam, few, clusters, WORDS, shown=False)
    assert names[1] == {} and all(lift == 0 for lift in names[0].values())  # nothing to differ from
    assert listed(names, few.classes, 3)[:3] == ["boat 1", "boat 2", "boat 3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": "red"}, "words is 'red', expected"),
        ({"words": ()}, "words is empty"),
        ({"words": {}}, "words names no class"),
        ({"words": {"boat": ()}}, "words of boat is empty"),
        ({"words": ("red", 3)}, "words has 3, expected"),
        ({"words": {"ship": ("red",)}}, r"words names \['ship'\], expected classes among boat"),
        ({"template": "a boat"}, "template is 'a boat', expected text with exactly one {}"),
        ({"subcategories": torch.zeros(2, 24)}, "150 samples and 2 rows"),
        ({"subcategories": torch.ones(150, 24)}, "a class that its labels lack"),
    ],
)
def test_wrong_questions_are_refused(found, change, message):
    clip, method, samples, subcategories = found
    given = {"samples": samples, "subcategories": subcategories, "words": WORDS, **change}
    with pytest.raises(ValueError, match=message):
        name_subcategories(clip, method, shown=False, **given)


def test_a_list_of_names_is_as_long_as_there_are_subcategories():
    with pytest.raises(ValueError, match="1 names for 2 classes of 3"):
        listed([{}], ("cow", "cat"), 3)


# -- real photographs -----------------------------------------------------------------------


def test_photographs_of_any_size_are_clustered_trained_on_and_looked_at(voc_root):
    """Images of VOC, no two of one size: crops to train on, whole images for all else."""
    samples = load_voc(voc_root, "train", limit=3)
    assert len({tuple(sample.image.shape) for sample in samples}) > 1
    method = SCCAM("paper", weights="web", preset="clean", n_subcategories=2, rounds=2)
    method.fit(
        samples,
        epochs=1,
        batch_size=4,
        crop=64,
        long_side=(96, 128),
        baseline={"epochs": 1, "batch_size": 4},
        progress=False,
    )
    assert method.subcategories_.shape == (3, 40)
    parents = method.subcategories_.unflatten(1, (20, 2)).sum(2)
    assert torch.equal(parents, labels_of(samples))
    features = method.features_of(samples, progress=False)
    near = exemplars(features, method.subcategories_, n_classes=20, n=1)
    assert sum(len(rows) for rows in near) == int((method.subcategories_.sum(0) > 0).sum())
    for sample in samples:
        cams = method(sample.image[None], sample.labels[None]).cams[0]
        H, W = sample.image.shape[-2:]
        assert cams.shape == (20, -(-H // 4), -(-W // 4))
        assert (cams[sample.labels == 0] == 0).all()
