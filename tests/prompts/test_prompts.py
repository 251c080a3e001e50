"""The words that CLIP is asked: the published tables, JSON, and what is said about bad ones."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from wsss_kit.classes import COCO_CLASSES, PAPER_CLASSES, VOC_CLASSES
from wsss_kit.paperworld import HOME, STUFF
from wsss_kit.paperworld.words import WordTokenizer
from wsss_kit.prompts import Prompts

CAT_AND_DOG = {"classes": ["cat", "dog"], "backgrounds": ["sea", "sky"], "template": "a {}"}

PUBLISHED = [
    (Prompts.voc, VOC_CLASSES, {"clip_es": 25, "clims": 10}),
    (Prompts.coco, COCO_CLASSES, {"clip_es": 23, "clims": 88}),
    (Prompts.paper, PAPER_CLASSES, {"clip_es": 12, "clims": 12}),
]
TABLES = [
    pytest.param(make, classes, method, n, id=f"{make.__name__}-{method}")
    for make, classes, counts in PUBLISHED
    for method, n in counts.items()
]


@pytest.fixture
def prompts():
    return Prompts(
        ("cat", "dog"),
        ("sea", "sky", "grass"),
        template="a {}.",
        synonyms={"dog": "puppy"},
        class_backgrounds={"dog": ("grass",)},
    )


def edited(**changes):
    return {**CAT_AND_DOG, **changes}


def build(values):
    values = dict(values)
    return Prompts(values.pop("classes"), values.pop("backgrounds"), **values)


@pytest.mark.parametrize(("make", "classes", "method", "n_backgrounds"), TABLES)
def test_published_tables(make, classes, method, n_backgrounds):
    prompts = make(method=method)
    assert prompts.classes == classes  # names are never replaced by phrases
    for template in prompts.templates:
        texts = prompts.class_texts(template)
        assert len(texts) == len(set(texts)) == len(classes)
        backgrounds = prompts.background_texts(template)
        assert len(backgrounds) == len(prompts.backgrounds) == n_backgrounds


def test_lengths_of_the_class_lists():
    assert [len(make().classes) for make, _, _ in PUBLISHED] == [20, 80, 8]


def test_clip_es_says():
    voc, coco = Prompts.voc(), Prompts.coco()
    assert voc == Prompts.voc(method="clip_es") and voc.template == "a clean origami {}."
    assert voc.class_texts()[14] == "a clean origami person with clothes,people,human."
    assert voc.background_texts()[0] == "a clean origami ground."
    changed = {
        name for name, phrase in zip(voc.classes, voc.phrases, strict=True) if name != phrase
    }
    assert changed == {"bird", "chair", "person", "tvmonitor"}
    assert set(voc.backgrounds) - set(coco.backgrounds) == {"keyboard", "sign"}
    assert coco.phrases[COCO_CLASSES.index("hair drier")] == "hairdrier,blowdrier"
    assert coco.phrases[COCO_CLASSES.index("tie")] == "necktie"
    assert len(coco.synonyms) == 18


def test_the_released_spelling_is_an_option():
    reference, clean = Prompts.coco(preset="reference"), Prompts.coco(preset="clean")
    differ = [
        (name, message, meant)
        for name, message, meant in zip(COCO_CLASSES, reference.phrases, clean.phrases, strict=True)
        if message != meant
    ]
    assert differ == [("snowboard", "sknowboard", "snowboard")]
    assert Prompts.coco() == reference
    assert Prompts.coco("clims", preset="clean") == Prompts.coco("clims", preset="reference")


def test_clims_says():
    voc, coco = Prompts.voc(method="clims"), Prompts.coco(method="clims")
    assert voc.class_texts()[14] == "a photo of player." == coco.class_texts()[0]
    assert voc.synonyms == {
        "diningtable": "dining table",
        "person": "player",
        "pottedplant": "potted plant",
        "tvmonitor": "tv monitor",
    }
    assert coco.synonyms == {"person": "player"}
    assert " ".join(voc.backgrounds) == (
        "tree river sea lake water railway railroad track stone rocks"
    )
    assert (coco.backgrounds[0], coco.backgrounds[-1]) == ("street sign", "park")
    assert voc.backgrounds_of("boat") == voc.backgrounds  # one global list


def test_paper_words_are_those_of_the_world():
    clip_es, clims = Prompts.paper(), Prompts.paper(method="clims")
    assert clip_es.backgrounds == clims.backgrounds == STUFF
    assert {name: clims.backgrounds_of(name) for name in PAPER_CLASSES} == {
        name: (home,) for name, home in HOME.items()
    }
    message = clip_es.class_texts()
    for template in clims.templates:
        message += clims.class_texts(template) + clims.background_texts(template)
    for text in message:
        assert not WordTokenizer().unknown(text), text
    assert clip_es.class_texts()[0] == "a boat without background"
    assert clims.background_texts(clims.templates[1])[1] == "a clean cutout of a rails"


def test_texts_of_several_templates():
    prompts = Prompts.paper().replace(template=["a {}", "one {} only"])
    assert prompts.templates == ("a {}", "one {} only")
    texts = [prompts.class_texts(each)[7] for each in prompts.templates]
    assert texts == ["a cat", "one cat only"]
    assert prompts.background_texts("no {}")[0] == "no water"
    for ask in (prompts.class_texts, prompts.background_texts):
        with pytest.raises(ValueError, match="no template given, expected one of the 2"):
            ask()
    with pytest.raises(ValueError, match=r"template is 'cat', expected text with exactly one"):
        prompts.class_texts("cat")


def test_one_template_in_a_list_is_one_template():
    assert build(edited(template=["a {}"])) == build(CAT_AND_DOG)
    assert build(CAT_AND_DOG).templates == ("a {}",)


def test_braces_of_a_word_stay():
    assert build(edited(classes=["{}", "{x}"])).class_texts() == ["a {}", "a {x}"]


def test_synonyms_are_one_prompt():
    prompts = build(edited(synonyms={"cat": ("kitten", "tabby")}))
    assert prompts.class_texts() == ["a kitten,tabby", "a dog"]
    assert prompts == build(edited(synonyms={"cat": "kitten,tabby"}))


def test_backgrounds_of(prompts):
    assert prompts.backgrounds_of("dog") == ("grass",) and prompts.backgrounds_of("cat") == ()
    without = prompts.replace(class_backgrounds=None)
    assert without.backgrounds_of("cat") == ("sea", "sky", "grass")
    with pytest.raises(ValueError, match=r"no class 'dgo', expected .*; closest: 'dog'"):
        prompts.backgrounds_of("dgo")


@pytest.mark.parametrize("method", ["clip_es", "clims"])
def test_own_classes(method):
    names = ("stop sign", "Sky", "cat", "river_boat", "car")
    prompts = Prompts.for_classes(names, method=method)
    assert prompts.classes == names and prompts.template == Prompts.voc(method).template
    gone = set(Prompts.voc().backgrounds) - set(prompts.backgrounds)
    assert gone == {"sign", "sky", "river"}  # word by word: the car does not hide the carpet
    assert list(prompts.backgrounds) == [w for w in Prompts.voc().backgrounds if w not in gone]
    assert prompts.phrases == ("stop sign", "Sky", "cat", "river boat", "car")


def test_own_classes_keep_words_that_only_share_letters():
    kept = Prompts.for_classes(["grasshopper", "land rover", "rail", "+"]).backgrounds
    assert {"grass", "railway", "railroad"} <= set(kept) and "land" not in kept


def test_own_classes_that_leave_nothing():
    with pytest.raises(ValueError, match=r"names leave none .* write Prompts\(names, backgrounds"):
        Prompts.for_classes(Prompts.voc().backgrounds)


def test_value_object(prompts):
    twin = Prompts.from_json(prompts.to_json())
    assert twin == prompts and hash(twin) == hash(prompts) and len({twin, prompts}) == 1
    for change in (
        {"classes": ("cat", "dog", "cow")},
        {"backgrounds": ("sea", "grass")},
        {"template": "one {}."},
        {"synonyms": {}},
        {"class_backgrounds": {"dog": ("sky",)}},
    ):
        assert prompts.replace(**change) != prompts
    other_order = prompts.replace(synonyms={"dog": "puppy", "cat": "tom"})
    same = prompts.replace(synonyms={"cat": "tom", "dog": "puppy"})
    assert other_order == same and hash(other_order) == hash(same)
    assert len(repr(Prompts.coco())) < 120 and "80 classes" in repr(Prompts.coco())


def test_frozen(prompts):
    with pytest.raises(AttributeError):
        prompts.template = "one {}"
    with pytest.raises(TypeError):
        prompts.synonyms["cat"] = "kitten"


def test_a_list_that_changes_later_changes_nothing():
    words, synonyms = ["sea"], {"cat": "kitten"}
    prompts = Prompts(["cat"], words, template="a {}", synonyms=synonyms)
    words.append("sky")
    synonyms["cat"] = "tom"
    assert prompts.backgrounds == ("sea",) and prompts.phrases == ("kitten",)


def test_copies_and_pickles(prompts):
    for twin in (copy.deepcopy(prompts), copy.copy(prompts), pickle.loads(pickle.dumps(prompts))):
        assert twin == prompts


@pytest.mark.parametrize(("make", "classes", "method", "n_backgrounds"), TABLES)
def test_json_round_trip(tmp_path, make, classes, method, n_backgrounds):
    prompts = make(method=method).replace(template=("a {}", "ein schönes {}"))
    path = tmp_path / "new" / "prompts.json"
    text = prompts.to_json(path)
    assert Prompts.from_json(path) == Prompts.from_json(str(path)) == prompts
    assert Prompts.from_json(text) == Prompts.from_json("\n " + text) == prompts
    assert path.read_text("utf-8") == text
    assert [file.name for file in path.parent.iterdir()] == ["prompts.json"]  # nothing temporary


def test_json_of_windows_editors(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(CAT_AND_DOG, indent=1).encode().replace(b"\n", b"\r\n")
    )
    assert Prompts.from_json(path) == build(CAT_AND_DOG)


def test_a_failed_write_keeps_the_old_file(tmp_path, prompts):
    path = tmp_path / "prompts.json"
    prompts.to_json(path)
    unwritable = prompts.replace(classes=("dog", "\ud800"))  # half a character has no UTF-8
    with pytest.raises(UnicodeEncodeError):
        unwritable.to_json(path)
    assert Prompts.from_json(path) == prompts and len(list(tmp_path.iterdir())) == 1


def test_a_path_that_is_a_folder(tmp_path, prompts):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        prompts.to_json(tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]  # nothing temporary


BAD = [
    ({"classes": "cat"}, "classes is 'cat', expected a list such as"),
    ({"classes": None}, "classes is None, expected a list"),
    ({"classes": {"cat": 1}}, "classes is {'cat': 1}, expected a list"),
    ({"classes": []}, "classes is empty, expected at least one word; add one"),
    ({"classes": ["cat", ""]}, "classes has '', expected text"),
    ({"classes": ["cat", " dog"]}, "classes has ' dog', expected text, no spaces around it"),
    ({"classes": ["cat", 3]}, "classes has 3, expected text"),
    ({"classes": ["cat", "dog", "cat"]}, "classes has 'cat' and 'cat', expected different words"),
    ({"backgrounds": 7}, "backgrounds is 7, expected a list such"),
    ({"backgrounds": []}, "backgrounds is empty"),
    ({"backgrounds": ["sea", "Sea"]}, "backgrounds has 'sea' and 'Sea', .* remove one"),
    ({"backgrounds": ["sea", None]}, "backgrounds has None, expected text"),
    ({"template": "a"}, "template is 'a', expected text with exactly one {}"),
    ({"template": "a {} {}"}, "template is 'a {} {}', expected"),
    ({"template": "a {0}"}, "template is 'a [{]0}', expected"),
    ({"template": "a {} {x}"}, "template is 'a {} {x}', expected"),
    ({"template": 5}, "template is 5, expected"),
    ({"template": []}, r"template is \[\], expected"),
    ({"template": ["a {}", "b"]}, "template is 'b', expected"),
    ({"synonyms": ["kitten"]}, r"synonyms is \['kitten'\], expected a mapping"),
    ({"synonyms": {"catt": "x"}}, "synonyms has the class 'catt', .* closest: 'cat'; correct"),
    ({"synonyms": {"cat": 1}}, "synonyms of 'cat' is 1, expected"),
    ({"synonyms": {"cat": " "}}, "synonyms of 'cat' has ' ', expected text"),
    ({"synonyms": {"cat": []}}, "synonyms of 'cat' is empty"),
    ({"class_backgrounds": "sea"}, "class_backgrounds is 'sea', expected a mapping"),
    ({"class_backgrounds": {"Dog": ["sea"]}}, "class_backgrounds has .* 'Dog', .*closest: 'dog'"),
    ({"class_backgrounds": {"dog": "sea"}}, "class_backgrounds of 'dog' is 'sea', expected a list"),
    (
        {"class_backgrounds": {"dog": ["see"]}},
        "class_backgrounds of 'dog' has 'see', expected one of 'sea', 'sky'; closest: 'sea'",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_words(changes, message):
    with pytest.raises(ValueError, match="^" + message):
        build(edited(**changes))
    with pytest.raises(ValueError, match="^the text: " + message):
        Prompts.from_json(json.dumps(edited(**changes)))
    with pytest.raises(ValueError, match="^" + message):
        build(CAT_AND_DOG).replace(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is not JSON .*line 1 column 1"),
        (
            '{"classes": ["cat",]',  # Python 3.13 points at the comma
            "the text is not JSON .*(Expecting value|Illegal trailing).*line 1 column (20|19)",
        ),
        ("[1]", r"the text: \[1\] arrived, expected an object with the keys classes, backgrounds"),
        (
            json.dumps({**CAT_AND_DOG, "backgronds": []}),
            "unknown key 'backgronds', expected one of .*; closest: 'backgrounds'; correct it",
        ),
        ('{"classes": ["cat"]}', "no backgrounds, no template; expected classes, backgrounds, te"),
    ],
)
def test_bad_json(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        Prompts.from_json(text)
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.json.*" + message.removeprefix("the text")):
        Prompts.from_json(path)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file none\.json; write one with prompts\.to"):
        Prompts.from_json("none.json")
    with pytest.raises(FileNotFoundError, match="no file "):
        Prompts.from_json(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file cat"):
        Prompts.from_json("cat " * 5000)
    latin = tmp_path / "latin.json"
    latin.write_bytes('{"classes": ["Bär"]}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.json is not JSON in UTF-8 .*; correct it"):
        Prompts.from_json(latin)


@pytest.mark.parametrize("make", [Prompts.voc, Prompts.coco, Prompts.paper])
def test_unknown_method(make):
    with pytest.raises(
        ValueError, match=r"no prompts for the method 'clipes', expected .*; closest: 'clip_es'"
    ):
        make(method="clipes")


def test_unknown_names(prompts):
    with pytest.raises(ValueError, match=r"preset is 'celan', expected .*clean"):
        Prompts.coco(preset="celan")
    with pytest.raises(
        ValueError, match=r"no prompts for the method None, expected one of 'clip_es', 'clims'"
    ):
        Prompts.for_classes(["cat"], method=None)
    with pytest.raises(ValueError, match=r"unknown key 'tempalte', .*; closest: 'template'"):
        prompts.replace(tempalte="a {}")
    with pytest.raises(ValueError, match=r"names is 'cat', expected a list such"):
        Prompts.for_classes("cat")


def test_fewer_classes_need_fewer_synonyms():
    with pytest.raises(ValueError, match=r"synonyms has the class 'bird', .*correct it"):
        Prompts.voc().replace(classes=("cat", "dog"))
    assert len(Prompts.voc().replace(classes=("cat", "dog"), synonyms=None).class_texts()) == 2


def test_synonyms_in_one_sentence_or_in_their_own():
    prompts = build(edited(template=["a {}", "one {}"], synonyms={"cat": ["tom", "tabby"]}))
    assert prompts.fusion == "sentence"
    assert prompts.class_sentences() == [
        ("a tom,tabby", "one tom,tabby"),
        ("a dog", "one dog"),
    ]
    apart = prompts.replace(fusion="feature")
    assert apart != prompts and hash(apart) != hash(prompts)
    assert apart.class_sentences()[0] == ("a tom", "a tabby", "one tom", "one tabby")
    assert apart.class_sentences()[1] == prompts.class_sentences()[1]
    assert apart.background_sentences() == prompts.background_sentences()
    assert apart.background_sentences()[1] == ("a sky", "one sky")
    assert Prompts.from_json(apart.to_json()) == apart
    assert "fusion" not in json.loads(prompts.to_json())  # what older versions read as well
    with pytest.raises(ValueError, match="fusion is 'map', expected one of sentence, feature"):
        prompts.replace(fusion="map")
