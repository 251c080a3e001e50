"""The prompt lab as one HTML file: its numbers are Python's, without network or server."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from wsss_kit.clip import load_clip
from wsss_kit.commands.prompts import RULE, SOURCES, run_lab
from wsss_kit.evaluation import ConfusionMatrix
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.prompts import Prompts

pytestmark = pytest.mark.browser
WORLD = PaperWorld(12, split="val")
EDITED = Prompts.paper().replace(
    backgrounds=["rails", "grass", "zebra", "water"],
    template=["a {} without background", "a photo of a {}"],
    synonyms={"cat": "kitten", "boat": "ship,boat"},
)


def until(page, expression, seconds=60):
    """Wait for a value; the page's own policy forbids the browser's way of waiting."""
    for _ in range(20 * seconds):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"still not so after {seconds} s: {expression}")


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """The page in a browser that has no network, and what its console said."""
    path, said = tmp_path_factory.mktemp("page") / "lab.html", []
    run_lab(out=path)
    assert path.stat().st_size <= 8e6
    context = browser.new_context(offline=True, accept_downloads=True)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    until(page, "window.results?.scores")
    yield page
    context.close()
    assert not said


def python_results(prompts):
    """What the kit computes for each image of the page, and the full maps."""
    method = CLIPES(load_clip("paper", device="cpu"), prompts=prompts).fit()
    for sample in WORLD:
        found = method.open(sample.image, sample.labels).maps()
        yield sample, found, found.full_size(sample.image.shape[1:])


def python_masks(prompts):
    masks = {}
    for sample, _, full in python_results(prompts):
        maps = full.new_zeros(1, len(sample.labels), *full.shape[1:])
        maps[0, sample.labels > 0] = full
        masks[sample.name] = RULE.masks(maps, sample.labels[None])[0]
    return masks


def confusion_of(masks):
    confusion = ConfusionMatrix(1 + len(WORLD.classes))
    for name, mask in masks.items():
        confusion.update(mask, WORLD.masks[name])
    return confusion


@pytest.mark.parametrize("prompts", [Prompts.paper(), EDITED], ids=["start", "edited"])
@pytest.mark.filterwarnings("ignore:this model never read")
def test_maps_probabilities_masks_and_iou_are_pythons(lab, prompts):
    given = {"backgrounds": prompts.backgrounds, "synonyms": dict(prompts.synonyms)}
    given["template"] = [*prompts.templates]
    lab.evaluate("words => edit(words)", given)
    masks, same = python_masks(prompts), []
    for i, (sample, found, full) in enumerate(python_results(prompts)):
        shown = lab.evaluate(
            """i => { const found = resultOf(i); return {
                probs: [...found.probs], cams: found.cams.map((map) => [...map]),
                full: found.full.map((map) => [...map]),
                mask: [...maskOf(found.full, images[i].classes, DATA.rule)] }; }""",
            i,
        )
        close = partial(np.testing.assert_allclose, atol=1e-3, rtol=0)
        close(shown["probs"], found.probs.numpy())
        close(shown["cams"], found.cams.flatten(1).numpy())
        close(shown["full"], full.flatten(1).numpy())
        same.append(np.mean(masks[sample.name].flatten().numpy() == shown["mask"]))
    assert len(same) == 12 and np.mean(same) >= 0.999
    until(lab, "window.results?.scores")
    scores, confusion = lab.evaluate("window.results?.scores"), confusion_of(masks)
    np.testing.assert_allclose(scores["now"], confusion.iou(), atol=2e-3)
    assert scores["mean"] == pytest.approx(confusion.mean_iou(), abs=2e-3)


def test_an_edit_is_quick(lab):
    lab.evaluate("edit({ backgrounds: ['water', 'sky'] })")
    box = lab.locator("#backgrounds")
    times = []
    for words in ("water, sky, fog", "water, sky, fog, stone", "water, snow"):
        box.fill(words)
        times.append(lab.evaluate("window.results.milliseconds"))
    assert sorted(times)[1] <= 300


def test_words_by_keyboard_files_links_and_language(lab, tmp_path):
    lab.locator("#start").press("Enter")
    until(lab, "!document.querySelector('#problem').textContent")
    row = lab.locator("#probs button", has_text="grass")
    row.press("Enter")
    assert row.get_attribute("aria-pressed") == "true"
    assert row.evaluate("each => each === document.activeElement")
    assert "grass" in lab.evaluate("decodeURIComponent(location.hash)")
    link = lab.url
    with lab.expect_download() as download:
        lab.locator("#save").press("Enter")
    download.value.save_as(tmp_path / "prompts.json")
    saved = Prompts.from_json(tmp_path / "prompts.json")
    others = [word for word in Prompts.paper().backgrounds if word != "grass"]
    assert saved == Prompts.paper().with_backgrounds(others)
    (tmp_path / "mine.json").write_text(EDITED.to_json(made_by={"by": "hand"}), encoding="utf-8")
    lab.locator("#load").set_input_files(tmp_path / "mine.json")
    until(lab, "document.querySelector('#backgrounds').value.startsWith('rails, g')")
    assert "never read: zebra" in lab.locator("#said").text_content()
    for content, message in (
        ("{", "holds no prompts"),
        (Prompts.voc().to_json(), "other classes"),
        (json.dumps({**json.loads(EDITED.to_json()), "backgrounds": ["cow"]}), "is a class"),
        (json.dumps({**json.loads(EDITED.to_json()), "colour": 1}), "colour is no part"),
    ):
        (tmp_path / "bad.json").write_text(content, encoding="utf-8")
        lab.locator("#load").set_input_files(tmp_path / "bad.json")
        lab.locator("#problem", has_text=message).wait_for()
        assert lab.evaluate("state.backgrounds[0]") == "rails"  # nothing is lost
    for box, text, message in (
        ("#template", "no place", "needs {} once"),
        ("#backgrounds", "sky, Sky", "twice"),
        ("#classes", "boat, train", "2 class names, expected 8"),
    ):
        lab.locator(box).fill(text)
        lab.locator("#problem", has_text=message).wait_for()
    lab.locator("#language").press("Enter")
    assert lab.locator("h1").text_content() == "提示词实验室"
    assert lab.evaluate("document.documentElement.lang") == "zh"
    lab.locator("#language").press("Enter")
    lab.goto("about:blank")
    lab.goto(link)
    until(lab, "window.results?.scores")
    assert lab.evaluate("state.off") == ["grass"]
    lab.locator("#leave").press("Enter")
    until(lab, "window.results.worth", 120)
    worth = lab.evaluate("window.results.worth")
    assert set(worth) == set(others)
    fewer = [word for word in others if word != "snow"]
    pair = (confusion_of(python_masks(saved.with_backgrounds(words))) for words in (others, fewer))
    change = float(np.subtract(*(each.mean_iou() for each in pair)))
    assert worth["snow"] == pytest.approx(change, abs=4e-3)
    for view in ("competition", "mask", "truth", "map"):
        lab.locator("#view").select_option(view)
        assert len(lab.locator("#caption").text_content()) > 10
    lab.locator("#view").select_option("affinity")
    for key in ("ArrowUp", "ArrowLeft"):
        lab.locator("#right").press(key)
    assert lab.evaluate("state.cell") == 78 - 12 - 1
    clip = load_clip("paper", device="cpu")
    attention = clip.encode_dense(WORLD[0].image[None]).attention[0]
    shown = lab.evaluate("[...opened(0).attention]")
    np.testing.assert_allclose(shown, attention.flatten(), atol=1e-4)
    lab.locator("#images input").nth(0).press("ArrowRight")
    assert lab.evaluate("state.image") == 1


def test_everything_has_a_name_and_both_languages_say_the_same(lab):
    unnamed = """() => {
        const named = (e) => e.getAttribute('aria-label') || e.textContent.trim()
            || e.closest('label')?.textContent.trim();
        const all = document.querySelectorAll('input, select, textarea, button, canvas[role]');
        return [...all].filter((e) => !named(e)).map((e) => e.outerHTML);
    }"""
    assert lab.evaluate(unnamed) == []
    english, chinese = lab.evaluate("[Object.keys(TEXTS.en), Object.keys(TEXTS.zh)]")
    assert english == chinese
    for width in (360, 1280):
        lab.set_viewport_size({"width": width, "height": 800})
        assert lab.evaluate("document.documentElement.scrollWidth") <= width
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES.iterdir()]
    assert sum(lines) <= 900


def test_the_first_map_is_quick(lab):
    lab.reload()
    assert lab.evaluate("window.results.milliseconds") <= 2000
    assert torch.isfinite(torch.tensor(lab.evaluate("[...window.results.found.full[0]]"))).all()
