"""An open image gives what a new look at it would, whatever is changed and in whatever order."""

import functools

import pytest
import torch

from wsss_kit.clip import LastBlock
from wsss_kit.methods.clip_es import CLIPES, TARGETS
from wsss_kit.methods.clip_es import opened as opened_module
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

OPTIONS = [{}, {"preset": "clean"}, {"preset": "plus"}, *({"target": t} for t in TARGETS)]


@pytest.fixture(scope="module")
def sample():
    """An image of two classes."""
    return next(s for s in PaperWorld(20) if s.labels.sum() == 2)


def names_of(sample):
    return [n for n, on in zip(Prompts.paper().classes, sample.labels.tolist(), strict=True) if on]


def agrees(found, method, image, labels):
    """That these are the maps of a method that looks anew."""
    output = method.fit()(image[None], labels[None])
    torch.testing.assert_close(found.cams, output.cams[0, labels > 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.attention, output.affinity[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", OPTIONS)
def test_it_begins_with_the_methods_own_maps(clip, sample, options):
    method = CLIPES(clip, prompts=Prompts.paper(), **options)
    for image, labels in ((sample.image, sample.labels), (torch.rand(3, 5, 7), torch.ones(8))):
        opened = method.open(image, labels)
        agrees(opened.maps(), method, image, labels)
        assert opened.prepare() is opened
        agrees(opened.maps(), method, image, labels)
        full = opened.maps().full_size(opened.size)
        assert opened.size == image.shape[1:] and 0 <= full.min() and full.max() <= 1.05


@pytest.mark.parametrize("preset", ["reference", "plus"])
def test_every_kind_of_edit_equals_a_new_look(clip, sample, preset):
    prompts, make = Prompts.paper(), functools.partial(CLIPES, clip, preset=preset)
    opened = make(prompts=prompts).open(sample.image, names_of(sample))
    first = opened.maps()
    less = [word for word in prompts.backgrounds if word != "grass"]
    edits = {
        "a word more": {"backgrounds": [*prompts.backgrounds, "wooden"]},
        "a word less": {"backgrounds": less},
        "another word": {"backgrounds": [*less, "golden"]},
        "all new": {"backgrounds": ["red", "striped", "grey", "stone"]},
        "a synonym": {"synonyms": {names_of(sample)[0]: "spotted kitten"}},
        "a template": {"template": "a photo of a {}"},
        "two templates": {"template": ("a {}", "a photo of a {}")},
    }
    for change in edits.values():
        changed = prompts.replace(**change)
        agrees(opened.maps(changed), make(prompts=changed), sample.image, sample.labels)
    off = opened.maps(without=["grass"])
    agrees(off, make(prompts=prompts.replace(backgrounds=less)), sample.image, sample.labels)
    labels = torch.zeros(8)
    labels[4] = 1
    other = opened.maps(classes=[prompts.classes[4]])
    agrees(other, make(prompts=prompts), sample.image, labels)
    again = opened.maps()
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    backwards = opened.maps(classes=names_of(sample)[::-1])  # in the order they are named in
    torch.testing.assert_close(first.cams, backwards.cams.flip(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.probs[:2], backwards.probs[:2].flip(0))


def test_an_edit_runs_no_backbone_and_a_switch_no_gradient(clip, sample, monkeypatch):
    prompts = Prompts.paper()
    opened = CLIPES(clip, prompts=prompts).open(sample.image, sample.labels)
    opened.prepare()
    gradients = []
    counted = LastBlock.mean_gradients

    def count(last, directions, image):
        gradients.append(len(directions))
        return counted(last, directions, image)

    def refuse(*_):
        raise AssertionError("the backbone ran again")

    monkeypatch.setattr(LastBlock, "mean_gradients", count)
    monkeypatch.setattr(clip, "_run_backbone", refuse)
    for word in prompts.backgrounds:
        opened.maps(without=[word])
    assert not gradients
    opened.maps(prompts.replace(backgrounds=[*prompts.backgrounds, "golden texture"]))
    assert gradients == [1]
    fresh = CLIPES(clip, prompts=prompts).fit()
    new = prompts.replace(backgrounds=["red", "striped", "grey", "golden"])
    with pytest.raises(AssertionError, match="the backbone ran again"):
        fresh.open(sample.image, sample.labels)
    gradients.clear()
    opened.maps(new)
    assert gradients == [4]  # prepared, all are remembered


def test_all_words_switched_off_leave_the_classes(clip, sample):
    prompts = Prompts.paper()
    opened = CLIPES(clip, prompts=prompts).open(sample.image, sample.labels)
    result = opened.maps(without=prompts.backgrounds)
    assert result.probs.shape == (2,)
    agrees(result, CLIPES(clip, prompts=prompts, target="classes"), sample.image, sample.labels)
    alone = opened.maps(classes=names_of(sample)[:1], without=prompts.backgrounds)
    assert (alone.cams == 0).all()  # nothing to compare with


def test_claims_are_the_softmax_of_every_patch(clip, sample):
    method = CLIPES(clip, prompts=Prompts.paper())
    opened = method.open(sample.image, sample.labels)
    names = opened.classes
    claims = opened.claims(without=["grass"])
    on = [word for word in method.prompts.backgrounds if word != "grass"]
    prompts = method.prompts.replace(backgrounds=on)
    assert torch.equal(claims, opened.claims(prompts)) and len(claims) == len(names) + len(on)
    assert torch.allclose(claims.sum(0), torch.ones(claims.shape[1:]), atol=1e-5)
    texts = clip.encode_sentences([*prompts.class_sentences(), *prompts.background_sentences()])
    keep = [prompts.classes.index(n) for n in names] + list(range(8, 8 + len(on)))
    last, _, grid = clip.last_block(sample.image[None], round_positions=True)
    patches = torch.nn.functional.normalize(last.patches[0], dim=-1)
    literal = (clip.logit_scale * patches @ texts[keep].T).softmax(1).T.view(-1, *grid)
    assert torch.allclose(claims, literal, atol=1e-5)
    both, mirrored = (
        CLIPES(clip, prompts=Prompts.paper(), flip=flip).open(image, sample.labels).claims()
        for flip, image in ((True, sample.image), (False, sample.image.flip(-1)))
    )
    assert torch.allclose(both, (opened.claims() + mirrored.flip(-1)) / 2, atol=1e-5)


def test_what_cannot_be_meant(clip, sample):
    method = CLIPES(clip, prompts=Prompts.paper())
    opened = method.open(sample.image, sample.labels)
    for options, message in (
        ({"without": ["gras"]}, r"without has 'gras'.*closest: 'grass'"),
        ({"classes": ["dog"]}, "classes has 'dog', expected one of"),
        ({"classes": []}, "classes is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            opened.maps(**options)
    with pytest.raises(ValueError, match="classes is empty"):
        method.open(sample.image, torch.zeros(8))
    with pytest.raises(ValueError, match=r"labels have shape \(1, 7\)"):
        method.open(sample.image, torch.ones(7))


def test_what_is_done_to_a_result_changes_no_other(clip, sample):
    opened = CLIPES(clip, prompts=Prompts.paper()).open(sample.image, sample.labels)
    first = opened.maps()
    kept = first.refined.clone(), first.attention.clone()
    first.attention.fill_diagonal_(0)
    again = opened.maps()
    assert torch.equal(again.refined, kept[0]) and torch.equal(again.attention, kept[1])


def test_what_it_remembers_ends(clip, sample, monkeypatch):
    monkeypatch.setattr(opened_module, "MOST_KNOWN", 5)
    opened = CLIPES(clip, prompts=Prompts.paper()).open(sample.image, sample.labels).prepare()
    for word in ("red", "grey", "striped", "golden", "stone", "wooden", "spotted", "sand"):
        prompts = opened.prompts.replace(backgrounds=[f"{word} grass", "sky"])
        result = opened.maps(prompts)
        new = CLIPES(clip, prompts=prompts).open(sample.image, sample.labels).maps()
        assert torch.allclose(result.refined, new.refined, atol=1e-5)
        assert all(len(seen._known) <= 5 + len(opened.classes) + 2 for seen in opened._seen)
