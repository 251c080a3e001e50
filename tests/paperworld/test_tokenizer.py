"""The word tokenizer, called like open_clip's."""

import torch

from wsss_kit.paperworld.words import PAD, UNKNOWN, WordTokenizer, vocabulary


def test_ids_by_hand():
    tokenizer = WordTokenizer(["<pad>", "<unknown>", "a", "cat"], context_length=6)
    start, end = 4, 5
    ids = tokenizer(["a cat", "A  Cat!", "a zebra, a cat", "", "a cat a cat a cat"])
    assert ids.dtype == torch.int64
    assert ids.tolist() == [
        [start, 2, 3, end, PAD, PAD],
        [start, 2, 3, end, PAD, PAD],
        [start, 2, UNKNOWN, 2, 3, end],
        [start, end, PAD, PAD, PAD, PAD],
        [start, 2, 3, 2, 3, end],  # cut, but it ends
    ]
    assert tokenizer.vocab_size == 6


def test_the_end_has_the_highest_id():
    """open_clip reads the text's embedding at the highest id."""
    tokenizer = WordTokenizer()
    ids = tokenizer(["a photo of a cat", "fog"])
    assert (ids.max(1).values == tokenizer.end).all()
    assert ids.argmax(1).tolist() == [6, 2]
    assert ids.shape == (2, 20)


def test_the_vocabulary_has_no_word_twice_and_is_frozen():
    words = vocabulary()
    assert words[:2] == ("<pad>", "<unknown>")
    assert len(words) == len(set(words)) == 75  # the weights in the package have this many rows
    assert WordTokenizer().words == words
    unknown = WordTokenizer().unknown("a zebra near the Water, zebra")
    assert unknown == ["zebra", "near", "zebra"]  # in their order
    assert WordTokenizer().unknown("草地, Трава or a cat 2") == ["草地", "трава", "or", "2"]
