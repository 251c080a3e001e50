"""Masks on disk: batches by plan, taken up again, shared, never mixed, and nothing lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.programs import run_python
from wsss_kit.clip import load_clip
from wsss_kit.commands import MANIFEST, read_maps, read_masks
from wsss_kit.commands.generate import write_masks
from wsss_kit.data import LazySamples
from wsss_kit.methods.clip_es import CLIPES
from wsss_kit.paperworld import PaperWorld
from wsss_kit.pipeline import Pipeline
from wsss_kit.processes import plan_batches
from wsss_kit.prompts import Prompts
from wsss_kit.recipes import clip_es_maps

LONG = "x" * 245
SIZES = {"a": (6, 8), "b": (6, 8), "c": (9, 4), "dir/d": (6, 8), "e": (9, 4), LONG: (6, 8)}


def images(names=SIZES, broken=()):
    """Images of several sizes, two classes; broken ones raise when they are read."""

    def image(name):
        if name in broken:
            raise ValueError(f"{name}.jpg does not decode")
        generator = torch.Generator().manual_seed(len(name) + ord(name[-1]))
        return torch.rand(3, *SIZES[name], generator=generator)

    return LazySamples(
        names,
        image=image,
        labels=lambda name: torch.tensor([1.0, float(name in "ace")]),
        classes=("cow", "dog"),
        size=lambda name: SIZES[name],
    )


class Recipe:
    """Masks from brightness; counts what it was asked, and may fail."""

    def __init__(self, fails=None):
        self.batches, self.fails = [], fails

    def __call__(self, images, labels):
        self.batches.append(len(images))
        if self.fails is not None:
            self.fails(images)
        masks = (3 * images.mean(1)).long()
        masks[masks == 2] = 255
        return masks


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def planned(samples, batch_size, **options):
    return plan_batches(samples.names, samples.size_of, batch_size, **options)


QUIET = {"made_by": {"method": "test"}, "shown": False}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_batches_are_of_equal_size_in_the_order_of_the_data():
    assert planned(images(), 2) == [[0, 1], [2, 4], [3, 5]]
    assert planned(images(), 1) == [[0], [1], [2], [3], [4], [5]]
    assert planned(images(), 9) == [[0, 1, 3, 5], [2, 4]]


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_masks_come_back_value_by_value(tmp_path, batch_size):
    recipe, samples = Recipe(), images()
    written = write_masks(samples, recipe, tmp_path, batch_size=batch_size, **QUIET)
    assert list(written.masks) == list(SIZES) and not written.failed
    assert recipe.batches == [len(b) for b in planned(samples, batch_size)]
    for sample in samples:
        (expected,) = Recipe()(sample.image[None], sample.labels[None])
        assert torch.equal(written.masks[sample.name], expected)
    again = read_masks(tmp_path)
    assert list(again.masks) == list(SIZES) and torch.equal(again.masks["c"], written.masks["c"])


def test_soft_maps_are_kept_of_the_classes_present(tmp_path):
    colours = Pipeline(lambda images, labels: images[:, :2], background=0.3)
    write_masks(images(), colours, tmp_path, maps=True, **QUIET)
    maps = read_maps(tmp_path, "a")
    assert list(maps) == [0, 1] and list(read_maps(tmp_path, "dir/d")) == [0]
    torch.testing.assert_close(maps[1], images()[0].image[1], atol=5e-4, rtol=0)
    with pytest.raises(FileNotFoundError, match="give the run --maps to keep soft maps"):
        read_maps(tmp_path, "x")


def test_a_run_that_was_stopped_equals_one_that_was_not(tmp_path):
    """A full disk in the middle of the second batch; then it goes on."""
    whole = tmp_path / "whole"
    write_masks(images(), Recipe(), whole, batch_size=2, **QUIET)

    calls = []

    def full(images):
        calls.append(len(images))
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    stopped = tmp_path / "stopped"
    with pytest.raises(OSError, match="No space"):
        write_masks(images(), Recipe(fails=full), stopped, batch_size=2, **QUIET)
    assert not (stopped / MANIFEST).exists() and (stopped / "masks" / "b.png").exists()
    with pytest.raises(FileNotFoundError, match="the run has not ended"):
        read_masks(stopped)
    (stopped / "masks" / "b.png").unlink()  # as if it had been killed between two files
    again = Recipe()
    write_masks(images(), again, stopped, batch_size=2, workers=2, **QUIET)
    assert again.batches == [2, 2, 2]  # the torn batch is made whole again
    assert files(stopped) == files(whole)


@pytest.mark.parametrize("factor", [1, 0.999])
def test_a_method_is_given_the_image_itself(tmp_path, factor):
    """It travels as 8-bit levels only where nothing is lost."""
    image = factor * (torch.arange(256) / 255).view(1, 16, 16).repeat(3, 1, 1)
    given = {"image": lambda name: image, "labels": lambda name: torch.ones(1)}
    samples, seen = LazySamples(["a"], classes=("cow",), **given), []
    write_masks(samples, lambda x, y: seen.append(x) or x[:, 0].long(), tmp_path, **QUIET)
    assert torch.equal(seen[0][0], image)
    long = LazySamples(["n" * 253, "a"], classes=("cow",), **given)  # its PNG has 257 bytes
    for _ in range(2):
        written = write_masks(long, Recipe(), tmp_path / "long", **QUIET)
        assert list(written.masks) == ["a"] and "the name is too long" in written.failed["n" * 253]


def test_what_cannot_be_read_or_made_is_noted_and_the_rest_goes_on(tmp_path):
    def blames(batch):
        if batch.shape[-1] == 4 and bool((batch == images()[2].image).all(1).any()):
            raise ValueError("too thin")

    samples = images(broken=("b",))
    written = write_masks(samples, Recipe(fails=blames), tmp_path, batch_size=2, **QUIET)
    reasons = {"b": "ValueError: b.jpg does not decode", "c": "ValueError: too thin"}
    assert written.failed == reasons
    assert list(written.masks) == ["a", "dir/d", "e", LONG]
    assert read_masks(tmp_path).failed == written.failed


def test_a_name_stays_in_its_folder(tmp_path):
    with pytest.raises(ValueError, match=r"'\.\./a', expected a name that stays in its folder"):
        write_masks(images(["../a"]), Recipe(), tmp_path / "in", **QUIET)
    assert not list(tmp_path.rglob("*.png"))


def test_a_process_that_is_none_of_those_that_share(tmp_path):
    with pytest.raises(ValueError, match="rank is 2 of world 2, expected 0 to 1"):
        write_masks(images(), Recipe(), tmp_path, **QUIET, rank=2, world=2)


KILLED = """
import resource, sys, time, torch
from wsss_kit import PaperWorld
from wsss_kit.commands.generate import write_masks
from wsss_kit.data import LazySamples
from wsss_kit.pipeline import Pipeline

options = {"made_by": {"recipe": "brightness"}, "shown": False, "maps": True}

def brightness(images, labels):
    time.sleep(0.004)
    return images.mean(1, keepdim=True).expand(-1, labels.shape[1], -1, -1)

if len(sys.argv) > 2:
    world = PaperWorld(int(sys.argv[2]), split="train")
    print("ready", flush=True)
    write_masks(world, Pipeline(brightness), sys.argv[1], batch_size=4, **options)
"""
MEMORY = """
done, peak = [], {}

def watched(images, labels):
    done.append(len(images))
    if sum(done) in (200, 2000):
        peak[sum(done)] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return brightness(images, labels)

samples = LazySamples(
    [f"p{i}" for i in range(2000)],
    image=lambda name: torch.rand(3, 375, 500),
    labels=lambda name: torch.ones(2),
    classes=("cow", "dog"),
    size=lambda name: (375, 500),
)
write_masks(samples, Pipeline(watched), sys.argv[1], batch_size=8, **options)
print(peak[200], peak[2000])
"""


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_images(tmp_path):
    """The peak after 200 images and after 2,000, VOC's size, maps kept."""
    printed = run_python("-c", KILLED + MEMORY, tmp_path, env=ONE_THREAD, timeout=None)
    early, late = map(int, printed.split())
    assert late < 1.05 * early, f"{early} kB after 200 images, {late} kB after 2,000"


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_leaves_the_same_files(tmp_path):
    """SIGKILL, which nothing can catch, at random moments of a run over 500 images."""

    def start(folder):
        command = [sys.executable, "-c", KILLED, str(folder), "500"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=ONE_THREAD, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert start(whole).wait() == 0
    needed = time.monotonic() - began
    moments, kills = random.Random(0), 0
    while kills < 20:
        process = start(killed)
        time.sleep(moments.uniform(0.02, needed / 12))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
        if (killed / MANIFEST).exists() and kills < 20:  # finished too early: begin anew
            assert files(killed) == files(whole)
            for path in sorted(killed.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    assert start(killed).wait() == 0
    assert files(killed) == files(whole)


# -- images of nearly one size ------------------------------------------------------------


def nearly_equal():
    """Twelve images of the embedded world, cut to sizes of 8 x 10 or 7 x 9 patches of 8."""
    world = PaperWorld(12, split="val")
    cuts = [(64, 80), (61, 75), (50, 66), (64, 77), (49, 72), (57, 73)] * 2
    sizes, samples = dict(zip(world.names, cuts, strict=True)), {s.name: s for s in world}
    return LazySamples(
        world.names,
        image=lambda name: samples[name].image[:, : sizes[name][0], : sizes[name][1]],
        labels=lambda name: samples[name].labels,
        classes=world.classes,
        size=sizes.get,
    )


def test_sizes_are_rounded_up_by_the_plan():
    samples = nearly_equal()
    assert planned(samples, 4, side=8) == [[0, 1, 3, 5], [2, 4, 8, 10], [6, 7, 9, 11]]
    assert len(planned(samples, 4)) == 6
    assert planned(samples, 1, side=8) == [[n] for n in range(12)]


@pytest.mark.parametrize("crf", [False, True])
def test_images_of_nearly_one_size_go_through_together(tmp_path, crf, monkeypatch):
    """As each alone: the model resizes to whole patches anyway."""
    samples, calls = nearly_equal(), []
    method = CLIPES(load_clip("paper", device="cpu"), prompts=Prompts.paper()).fit()
    pipeline = Pipeline(method, crf=crf)
    options = {"made_by": {}, "shown": False, "maps": True}
    alone = write_masks(samples, pipeline, tmp_path / "b", **options)
    own_maps = Pipeline.own_maps

    def counted(self, images, labels):
        calls.append(tuple(images.shape))
        return own_maps(self, images, labels)

    monkeypatch.setattr(Pipeline, "own_maps", counted)
    together = write_masks(samples, pipeline, tmp_path / "a", batch_size=4, **options)
    assert calls == [(4, 3, 64, 80), (4, 3, 56, 72), (4, 3, 64, 80)] and not together.failed
    for sample in samples:
        one, other = together.masks[sample.name], alone.masks[sample.name]
        assert one.shape == sample.image.shape[1:]
        assert (one != other).float().mean() < 2e-3
        expected = clip_es_maps(sample.image[None], sample.labels[None], method=method)[0]
        for c, result in read_maps(tmp_path / "a", sample.name).items():
            assert torch.allclose(result, expected[c], atol=2e-3)
