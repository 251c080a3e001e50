"""Looking into sub-categories: agreement, purity, exemplars, views and names."""

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from wsss_kit.cam import upsample
from wsss_kit.classes import PAPER_CLASSES, labels_of
from wsss_kit.methods import sc_cam
from wsss_kit.paperworld import PaperWorld, subtype_labels, subtype_names
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
    result = sc_cam.agreement(first, second, n_classes=2)
    assert result.nmi[0] == pytest.approx(normalized_mutual_info_score([0, 0, 1, 1], [0, 1, 2, 2]))
    assert result.ari[0] == pytest.approx(adjusted_rand_score([0, 0, 1, 1], [0, 1, 2, 2]))
    assert result.nmi[1] == pytest.approx(normalized_mutual_info_score([0, 1], [0, 0]))
    assert result.mean_nmi == pytest.approx(sum(result.nmi) / 2)
    once = sc_cam.agreement(
        *[one_hot([{0}, {1}, {0, 2}], 4)] * 2, n_classes=2
    )  # one image shows class 1
    assert once.nmi[0] == 1 and math.isnan(once.nmi[1]) and math.isnan(once.ari[1])
    assert once.mean_nmi == once.ari[0] == 1


def test_stability_compares_each_round_with_the_one_before():
    rounds = [one_hot(each, 2) for each in ([{0}, {0}, {1}], [{0}, {1}, {1}], [{1}, {0}, {0}])]
    result = sc_cam.stability(rounds, n_classes=1)
    expected = [adjusted_rand_score([0, 0, 1], [0, 1, 1]), 1]
    assert [each.ari[0] for each in result] == pytest.approx(expected)
    assert sc_cam.stability(rounds[:1], n_classes=1) == []


def test_purity_counts_by_hand():
    """Column 0: kinds 0, 0, 1. Column 1: an image with two kinds, which does not count."""
    result = one_hot([{0}, {0}, {0}, {1}], 2)
    kinds = one_hot([{0}, {0}, {1}, {0, 1}], 2)
    counted = sc_cam.purity(result, kinds, n_classes=1)
    assert counted.share[0] == pytest.approx(2 / 3) and counted.share[1].isnan()
    assert counted.kind.tolist() == [0, -1] and counted.size.tolist() == [3, 0]
    second_class = sc_cam.purity(
        torch.cat([0 * result, result], 1), kinds.repeat(1, 2), n_classes=2
    )
    assert second_class.kind.tolist() == [-1, -1, 2, -1]


@pytest.mark.parametrize("compare", [sc_cam.agreement, sc_cam.purity])
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
    near = sc_cam.exemplars(features, result, n_classes=2, n=4)
    assert [len(each) for each in near] == [4, 4, 4, 4, 4, 0]
    mine = features[rows % 2 == 1, 1]
    distances = (features[:, 1] - mine.mean(0)).norm(dim=1)
    distances[rows % 2 == 0] = torch.inf
    assert near[4] == distances.argsort()[:4].tolist()
    shared = sc_cam.exemplars(features[:, 0], result, n_classes=2, n=50)
    assert sorted(shared[0]) == rows[rows % 3 == 0].tolist()  # no more than there are
    with pytest.raises(ValueError, match=r"features have shape \(29, 2, 5\) and sub-categories"):
        sc_cam.exemplars(features[1:], result, n_classes=2)


def test_pca_keeps_distances_of_what_is_flat():
    flat = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    deep = torch.cat([flat, torch.zeros(9, 4)], 1)
    torch.testing.assert_close(
        torch.cdist(sc_cam.plane(deep), sc_cam.plane(deep)), torch.cdist(flat, flat)
    )
    assert sc_cam.plane(flat[:, :1])[:, 1].abs().max() == 0
    with pytest.raises(ValueError, match="expected two rows at least"):
        sc_cam.plane(flat[:1])


# -- names ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(clip):
    """The tiny CLIP and the shipped method, with its clusters of the first images."""
    method, world = sc_cam.SCCAM.load("paper", device="cpu"), PaperWorld(1000, split="train")[:160]
    return clip, method, world, method.subcategories_[:160]


WORDS = (*VEHICLE_STYLES, *ANIMAL_STYLES)


def test_the_shipped_clusters_have_their_true_names(found):
    names = sc_cam.name_subcategories(*found, WORDS, shown=False)
    pure = sc_cam.purity(found[3], subtype_labels(found[2]), n_classes=8)
    wanted = [j for j in range(24) if pure.share[j] >= 0.7]
    right = [next(iter(names[j])) == subtype_names()[pure.kind[j]] for j in wanted]
    assert len(wanted) >= 20 and sum(right) >= 0.8 * len(wanted)
    called = sc_cam.listed(names, PAPER_CLASSES, 3)
    assert len(set(called)) == 24 and "wooden boat" in called
    with pytest.raises(ValueError, match="1 names for 2 classes of 3"):
        sc_cam.listed([{}], ("cow", "cat"), 3)


def test_names_equal_a_loop_over_images(found):
    clip, method, world, clusters = found
    words = {"bird": WORDS, "cat": ("grey", "golden")}
    names = sc_cam.name_subcategories(*found, words, template="the {}", shown=False)
    assert [len(each) for each in names] == [0] * 18 + [6] * 3 + [2] * 3
    c, texts = 7, clip.encode_text(["the grey cat", "the golden cat"])
    means = []
    for j in range(3):
        seen = []
        for i in clusters[:, 3 * c + j].nonzero().flatten().tolist():
            image, labels = world[i].image[None], world[i].labels[None]
            shown = upsample(method(image, labels).cams, image.shape[-2:])[0, c] >= 0.3
            vector = clip.encode_image(image * shown)[0]
            seen.append((clip.logit_scale * (vector / vector.norm()) @ texts.T).softmax(0))
        means.append(torch.stack(seen).mean(0))
    lift = torch.stack(means) - torch.stack(means).mean(0)
    for j in range(3):
        assert names[21 + j]["grey cat"] == pytest.approx(lift[j, 0].item(), abs=1.1e-3)
        assert list(names[21 + j].values()) == sorted(names[21 + j].values(), reverse=True)


def test_clusters_without_images_have_no_name(found):
    clip, method, world, _ = found
    few = world[:6]
    clusters = torch.zeros(6, 24)
    clusters[:, ::3] = labels_of(few)
    names = sc_cam.name_subcategories(clip, method, few, clusters, WORDS, shown=False)
    assert names[1] == {} and all(lift == 0 for lift in names[0].values())  # nothing to differ from
    assert sc_cam.listed(names, few.classes, 3)[:3] == ["boat 1", "boat 2", "boat 3"]


def test_wrong_questions_are_refused(found):
    clip, method, samples, subcategories = found
    for change, message in (
        ({"words": {}}, "words names no class"),
        ({"words": {"boat": ()}}, "words of boat is empty"),
        ({"words": ("red", 3)}, "words has 3, expected"),
        ({"words": {"ship": ("red",)}}, r"words names \['ship'\], expected classes among boat"),
        ({"subcategories": torch.zeros(2, 24)}, "160 samples and 2 rows"),
        ({"subcategories": torch.ones(160, 24)}, "a class that its labels lack"),
    ):
        given = {"samples": samples, "subcategories": subcategories, "words": WORDS, **change}
        with pytest.raises(ValueError, match=message):
            sc_cam.name_subcategories(clip, method, shown=False, **given)
