"""Only background and the classes present take part, image by image."""

from functools import partial

import pytest
import torch

from wsss_kit.cam import upsample
from wsss_kit.crf import crf_of_present, dense_crf, pamr

pamr_of_present = partial(crf_of_present, refine=pamr)
BOTH = [(crf_of_present, dense_crf), (pamr_of_present, pamr)]
LABELS = torch.tensor([[0.0, 1.0], [0.0, 0.0]])


@pytest.fixture
def scene(rng):
    scores = upsample(torch.rand(2, 3, 4, 6, generator=rng), (20, 30))
    return scores, torch.rand(2, 3, 20, 30, generator=rng)


@pytest.mark.parametrize(("of_present", "refine"), BOTH)
def test_absent_classes_neither_give_nor_get_in_a_batch_of_any_order(scene, of_present, refine):
    scores, images = scene
    probs = of_present(scores, images, LABELS, iterations=3)
    expected = refine(scores[:1, [0, 2]], images[:1], iterations=3)
    assert torch.equal(probs[0, [0, 2]], expected[0])
    assert (probs[0, 1] == 0).all()
    torch.testing.assert_close(probs[1, 0], torch.ones(20, 30))
    assert (probs[1, 1:] == 0).all()
    order = torch.tensor([1, 0, 1, 1])
    again = of_present(scores[order], images[order], LABELS[order], iterations=3)
    torch.testing.assert_close(again, probs[order], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"labels has shape \(2, 3\), expected \(2, 2\)"):
        of_present(*scene, torch.ones(2, 3))


def test_gradients_pass_pamr_alone(scene):
    scores, images = scene
    scores.requires_grad_()
    assert not crf_of_present(scores, images, LABELS, iterations=1).requires_grad
    pamr_of_present(scores, images, LABELS, iterations=1)[0, 2].sum().backward()
    assert scores.grad[0, [0, 2]].abs().sum() > 0
    assert (scores.grad[0, 1] == 0).all() and (scores.grad[1] == 0).all()
