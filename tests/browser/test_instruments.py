"""The instruments in a real JupyterLab and Notebook: text, state, screen and console."""

import pytest

from tests.browser.jupyter import keep_until, write_notebook
from tests.widgets.conftest import file_of

pytestmark = pytest.mark.browser

ATLAS = """
from functools import partial

from wsss_kit import cam_maps, clip_es_maps, evaluate, predict_masks
from wsss_kit.evaluation import BackgroundRule
from wsss_kit.notebook_data import make_clip_es, open_data, train_cam
from wsss_kit.widgets import CAMExplorer, ErrorAtlas, PromptLab

data = open_data("paper", n_train=100, n_val=5, n_test=20)
cam, clip_es = train_cam(data), make_clip_es(data)
rule = BackgroundRule(threshold=0.3)
maps = {"CAM": partial(cam_maps, method=cam), "CLIP-ES": partial(clip_es_maps, method=clip_es)}
masks = {name: predict_masks(of, data.test, rule, shown=False) for name, of in maps.items()}
protocol = data.protocol("test", background=str(rule), refinement="none", preset="clean")
options = {"classes": data.classes, "protocol": protocol}
reports = {name: evaluate(own, data.test_masks, **options) for name, own in masks.items()}
"""
SHOW_ATLAS = "atlas = ErrorAtlas(data.test, masks, data.test_masks, reports)\natlas"
SHOW_LAB = """photograph = data.val[0]._replace(name="horse.jpg")
lab = PromptLab(clip_es, [*data.val, photograph], data.val_masks)
lab"""
SHOW_EXPLORER = """methods = {"CAM": cam, "CLIP-ES": clip_es}
explorer = CAMExplorer(methods, data.test[:4], data.test_masks, data.classes)
explorer"""


def drop(panel, name, content, zeros=0):
    """Let a file fall on the image, as from a desktop; zeros follow its content."""
    swipe = panel.locator(".wsss-swipe")
    transfer = swipe.page.evaluate_handle(
        """([name, bytes, zeros]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes), new Uint8Array(zeros)], name));
            return transfer;
        }""",
        [name, list(content), zeros],
    )
    swipe.dispatch_event("dragover", {"dataTransfer": transfer})
    swipe.dispatch_event("drop", {"dataTransfer": transfer})


def open_file(page, panel, label, name, content):
    """Open a file by a button, with the keyboard."""
    with page.page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name=label).press("Enter")
    chooser.value.set_files({"name": name, "mimeType": "", "buffer": content})


def use_explorer(page, panel, name="explorer"):
    """Thresholds in a loop, stage and handles by keys, an image by drop and by button."""
    values = [0.55, 0.254, 0.29, 0.57]  # the page must not round them, and send them back
    wait = f"__import__('time').sleep(0.3), {name}.threshold"
    loop = f"[({name}.set_trait('threshold', each), {wait})[2] for each in {values}]"
    assert page.value(loop) == values and page.value(f"({wait})[1]") == values[-1]
    panel.get_by_role("button", name="scores", exact=True).press("Enter")
    panel.locator(".wsss-swipe .before[alt='score of the background']").wait_for()
    assert panel.locator("[style*='linear-gradient']").count() == 1  # the colour bar
    panel.get_by_role("button", name="mask", exact=True).press("Enter")
    panel.get_by_text("mask by constant").wait_for()
    before = page.value(f"{name}.threshold")
    slider = panel.locator(".widget-slider:has(label:text-is('threshold')) .noUi-handle")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowLeft")
    panel.get_by_text(f"mask by constant {before - 0.05:g},").wait_for()
    assert page.value(f"{name}.threshold") == pytest.approx(before - 0.05)
    handle = panel.get_by_role("slider", name="swipe: image")
    start = int(handle.get_attribute("aria-valuenow"))
    handle.press("ArrowRight")
    assert int(handle.get_attribute("aria-valuenow")) == start + 5
    panel.get_by_role("button", name="error", exact=True).click()
    panel.get_by_text("of the pixels are wrong").wait_for()
    assert panel.get_by_text("spilled", exact=True).count() == 1  # the legend
    assert page.value(f"{name}.view.position") == pytest.approx((start + 5) / 100)
    assert "error" in panel.locator(".wsss-swipe .after").get_attribute("alt")
    assert page.photograph(panel, f"{page.title}-explorer")
    drop(panel, "mine.png", file_of(100, 200))
    panel.get_by_text("its true mask is unknown. These networks know only drawings").wait_for()
    drop(panel, "notes.txt", b"these are no pixels")
    panel.get_by_text("notes.txt does not decode as an image").wait_for()
    drop(panel, "huge.png", b"", 101 * 2**20)
    panel.get_by_text("huge.png has 101 MB, expected at most 100").wait_for()
    large = file_of(80, 80) + bytes(11 * 2**20)  # more than a message of Jupyter's may have
    open_file(page, panel, "Open your own image", "other.png", large)
    panel.locator(".wsss-swipe img[alt*='other.png']").wait_for()
    assert page.value(f"{name}.picture") == "own: other.png"
    assert not page.value(f"{name}.problem")


def use_lab(page, panel, name="lab"):
    """Words typed, a bar pressed, numbers of all images, back again."""
    box = panel.locator("textarea")
    box.click()
    box.press("End")
    box.press_sequentially(", zebra", delay=15)
    panel.get_by_text("This CLIP never read: zebra.").wait_for()
    assert page.value(f"{name}.prompts.backgrounds")[-1] == "zebra"
    assert box.input_value().endswith(", zebra")
    word = page.value(f"{name}.prompts.backgrounds")[0]
    row = panel.locator(f".wsss-bars button[data-name='{word}']")
    row.click()
    panel.locator(f".wsss-bars button.off[data-name='{word}']").wait_for()
    assert page.value(f"{name}.off") == (word,)
    row.press("Enter")  # the keyboard does as well
    panel.locator(f".wsss-bars button:not(.off)[data-name='{word}']").wait_for()
    assert page.value(f"{name}.off") == ()
    panel.get_by_role("button", name="competition").click()
    panel.locator(".wsss-swipe img.after[alt*='competition']").wait_for()
    panel.get_by_role("button", name="IoU", exact=True).click()
    panel.get_by_text("since the start), sharpness").wait_for(timeout=120_000)
    assert page.value(f"{name}.bars.title") == "IoU, percent (change since the start)"
    assert page.photograph(panel, f"{page.title}-lab")
    panel.get_by_role("button", name="leave one out").click()
    panel.get_by_text("what each word is worth in mIoU, points").wait_for(timeout=120_000)
    panel.get_by_role("button", name="search", exact=True).press("Enter")
    panel.get_by_text("worth beside the kept words, mIoU").wait_for(timeout=120_000)
    panel.get_by_text("undecided: ").wait_for()
    words = page.value(f"list({name}.found.words.index)")
    rows = panel.locator(".wsss-bars button")
    assert [each.get_attribute("data-name") for each in rows.all()] == words
    assert page.photograph(panel, f"{page.title}-search")
    template = panel.locator(".widget-text:has(label:text-is('template')) input")
    template.fill("no place")
    panel.locator("[role=alert]:has-text('template')").wait_for()
    panel.get_by_role("button", name="Start").click()
    panel.locator("[role=alert]").wait_for(state="detached")
    assert page.value(f"{name}.prompts == {name}.start")
    assert "zebra" not in box.input_value() and not page.value(f"{name}.problem")


def misuse_lab(page, panel):
    """Files and words that do not fit, a name that is there already, a photograph."""
    other = page.value("lab.prompts.to_json()").replace("boat", "x").replace("cow", "boat")
    for content, said in ((other, "keep the classes"), ("x", "begins with"), ("{", "not JSON")):
        open_file(page, panel, "Load", "mine.json", content.encode())
        panel.locator(f"[role=alert]:has-text('{said}')").wait_for()
        assert said in page.value("lab.problem")  # and stays
    file = panel.locator(".widget-text:has(label:text-is('file')) input")
    file.fill(" ")
    for said in ("has no name", "Saved as /", "press Save again to overwrite it", "Saved as /"):
        panel.get_by_role("button", name="Save").press("Enter")
        panel.get_by_text(said).wait_for()
        file.fill("mine.json")
    box = panel.locator("textarea")
    for text, said in (("cow", "'cow' is a class and"), ("grass; sky，狗", "never read: 狗.")):
        box.fill(text)
        panel.get_by_text(said).wait_for()
    assert page.value("lab.prompts.backgrounds") == ("grass", "sky", "狗")
    panel.locator(".widget-dropdown:has(label:text-is('picture')) select").press("End")
    panel.get_by_text("on a photograph its answers mean nothing").wait_for()


def use_atlas(page, panel, name="atlas"):
    """A class pressed, then an image, then another method."""
    classes, pictures = (panel.locator(".wsss-bars").nth(i) for i in range(2))
    classes.locator("button[data-name='cow']").click()
    panel.get_by_text("worst images, cow").wait_for()
    assert page.value(f"{name}.class_name") == "cow"
    third = pictures.locator("button").nth(2)
    chosen = third.get_attribute("data-name")
    third.click()
    panel.get_by_text(f"{chosen}, CAM, cow: IoU").wait_for()
    assert page.value(f"{name}.picture") == chosen
    assert third.get_attribute("aria-pressed") == "true"
    third.press("ArrowUp")
    pictures.locator("button:focus").press("Enter")
    panel.get_by_text(f"{chosen}, CAM, cow: IoU").wait_for(state="detached")
    second = pictures.locator("button").nth(1)
    assert page.value(f"{name}.picture") == second.get_attribute("data-name")
    panel.get_by_role("button", name="CLIP-ES").click()
    panel.get_by_text(", CLIP-ES, cow: IoU").wait_for()
    assert page.photograph(panel, f"{page.title}-atlas")
    assert not page.value(f"{name}.problem")


def complaints(page, opened, served):
    """What the console said that it does not say of any notebook with a slider in it."""
    if not page.console:
        return []
    write_notebook(served.folder / "plain.ipynb", "import ipywidgets\nipywidgets.FloatSlider()")
    plain = opened(served, "plain.ipynb")
    plain.run_all()
    plain.page.locator(".widget-slider").wait_for()
    return [message for message in page.console if message not in plain.console]


EXPLORER, LAB = [("explorer", use_explorer)], [("lab", use_lab)]
THREE = [("atlas", use_atlas), *LAB, ("lab", misuse_lab), *EXPLORER]


@pytest.mark.parametrize(
    ("application", "name", "uses"),
    [
        ("lab", "three", THREE),
        ("notebook", "three", THREE),
        ("lab", "00_start_here", EXPLORER),
        ("lab", "05_clip_es_softmax_grad_cam", LAB),
    ],
)
def test_a_notebook_with_its_instruments(application, name, uses, served, opened):
    server = served(application)
    if name == "three":
        write_notebook(server.folder / "three.ipynb", ATLAS, SHOW_EXPLORER, SHOW_LAB, SHOW_ATLAS)
    else:
        keep_until(server.folder / f"{name}.ipynb", uses[0][0])
    page = opened(server, f"{name}.ipynb")
    page.title = application if name == "three" else name[:2]
    page.run_all()
    for kind, use in uses:
        use(page, page.panel(kind))
        assert page.page.locator(f".wsss-{kind} [title='null']").count() == 0
    assert not complaints(page, opened, server)
