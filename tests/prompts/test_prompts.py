"""The words that CLIP is asked: the published tables, JSON, and the errors about bad ones."""

import copy
import json
import pickle
from pathlib import Path

import pytest

from wsss_kit.classes import COCO_CLASSES, PAPER_CLASSES, VOC_CLASSES
from wsss_kit.paperworld import HOME, STUFF
from wsss_kit.paperworld.words import WordTokenizer
from wsss_kit.prompts import Prompts

CAT_AND_DOG = {"classes": ["cat", "dog"], "backgrounds": ["sea", "sky"], "template": "a {}"}
TABLES = [
    *((Prompts.voc, VOC_CLASSES, method, n) for method, n in (("clip_es", 25), ("clims", 10))),
    *((Prompts.coco, COCO_CLASSES, method, n) for method, n in (("clip_es", 23), ("clims", 88))),
    *((Prompts.paper, PAPER_CLASSES, method, 12) for method in ("clip_es", "clims")),
]


@pytest.fixture
def prompts():
    options = {"synonyms": {"dog": "puppy"}, "class_backgrounds": {"dog": ("grass",)}}
    return Prompts(("cat", "dog"), ("sea", "sky", "grass"), template="a {}.", **options)


def build(**changes):
    values = {**CAT_AND_DOG, **changes}
    return Prompts(values.pop("classes"), values.pop("backgrounds"), **values)


@pytest.mark.parametrize(("make", "classes", "method", "n_backgrounds"), TABLES)
def test_published_tables(tmp_path, make, classes, method, n_backgrounds):
    prompts = make(method=method)
    assert prompts.classes == classes  # names are never replaced by phrases
    for template in prompts.templates:
        texts = prompts.class_texts(template)
        assert len(texts) == len(set(texts)) == len(classes)
        backgrounds = prompts.background_texts(template)
        assert len(backgrounds) == len(prompts.backgrounds) == n_backgrounds
    prompts = prompts.replace(template=("a {}", "ein schönes {}"))
    path = tmp_path / "new" / "prompts.json"
    text = prompts.to_json(path)
    assert Prompts.from_json(path) == Prompts.from_json(str(path)) == prompts
    assert Prompts.from_json(text) == Prompts.from_json("\n " + text) == prompts
    assert path.read_text("utf-8") == text
    assert [file.name for file in path.parent.iterdir()] == ["prompts.json"]  # nothing temporary
    with pytest.raises(ValueError, match=r"method 'clipes', expected .*; closest: 'clip_es'"):
        make(method="clipes")


def test_texts_of_clip_es():
    voc, coco = Prompts.voc(), Prompts.coco()
    assert voc == Prompts.voc(method="clip_es") and voc.template == "a clean origami {}."
    assert voc.class_texts()[14] == "a clean origami person with clothes,people,human."
    assert voc.background_texts()[0] == "a clean origami ground."
    pairs = zip(voc.classes, voc.phrases, strict=True)
    changed = {name for name, phrase in pairs if name != phrase}
    assert changed == {"bird", "chair", "person", "tvmonitor"}
    assert set(voc.backgrounds) - set(coco.backgrounds) == {"keyboard", "sign"}
    assert coco.synonyms["hair drier"] == "hairdrier,blowdrier" and len(coco.synonyms) == 18
    assert (coco.synonyms["tie"], coco.synonyms["snowboard"]) == ("necktie", "sknowboard")


def test_texts_of_clims():
    voc, coco = Prompts.voc(method="clims"), Prompts.coco(method="clims")
    assert voc.class_texts()[14] == "a photo of player." == coco.class_texts()[0]
    apart = {"diningtable": "dining table", "pottedplant": "potted plant"}
    assert voc.synonyms == {**apart, "person": "player", "tvmonitor": "tv monitor"}
    assert coco.synonyms == {"person": "player"}
    words = "tree river sea lake water railway railroad track stone rocks"
    assert " ".join(voc.backgrounds) == words
    assert (coco.backgrounds[0], coco.backgrounds[-1]) == ("street sign", "park")
    assert voc.backgrounds_of("boat") == voc.backgrounds  # one global list


def test_paper_words_are_those_of_the_world():
    clip_es, clims = Prompts.paper(), Prompts.paper(method="clims")
    assert clip_es.backgrounds == clims.backgrounds == STUFF
    homes = {name: (home,) for name, home in HOME.items()}
    assert {name: clims.backgrounds_of(name) for name in PAPER_CLASSES} == homes
    sentences = *clip_es.class_sentences(), *clims.class_sentences()
    for texts in (*sentences, *clims.background_sentences()):
        assert not any(WordTokenizer().unknown(text) for text in texts)
    assert clip_es.class_texts()[0] == "a boat without background"
    assert clims.background_texts(clims.templates[1])[1] == "a clean cutout of a rails"


def test_texts_of_one_and_of_several_templates():
    prompts = build(template=["a {}", "one {} only"])
    assert prompts.templates == ("a {}", "one {} only")
    assert [prompts.class_texts(each)[0] for each in prompts.templates] == ["a cat", "one cat only"]
    assert prompts.background_texts("no {}")[0] == "no sea"
    for ask in (prompts.class_texts, prompts.background_texts):
        with pytest.raises(ValueError, match="no template given, expected one of the 2"):
            ask()
    with pytest.raises(ValueError, match=r"template is 'cat', expected text with exactly one"):
        prompts.class_texts("cat")
    assert build(template=["a {}"]) == build() and build().templates == ("a {}",)
    # braces of a word stay
    words = ["{}", "{x}", "caf\u00e9", "\u732b"]
    assert build(classes=words).class_texts() == [f"a {word}" for word in words]


def test_backgrounds_of(prompts):
    assert prompts.backgrounds_of("dog") == ("grass",) and prompts.backgrounds_of("cat") == ()
    without = prompts.replace(class_backgrounds=None)
    assert without.backgrounds_of("cat") == ("sea", "sky", "grass")
    with pytest.raises(ValueError, match=r"no class 'dgo', expected .*; closest: 'dog'"):
        prompts.backgrounds_of("dgo")


def test_synonyms_in_one_sentence_or_in_their_own():
    prompts = build(synonyms={"cat": ("kitten", "tabby")})
    assert prompts.class_texts() == ["a kitten,tabby", "a dog"]
    assert prompts == build(synonyms={"cat": "kitten,tabby"})
    prompts = build(template=["a {}", "one {}"], synonyms={"cat": ["tom", "tabby"]})
    assert prompts.fusion == "sentence"
    assert prompts.class_sentences() == [("a tom,tabby", "one tom,tabby"), ("a dog", "one dog")]
    apart = prompts.replace(fusion="feature")
    assert apart != prompts and hash(apart) != hash(prompts)
    assert apart.class_sentences()[0] == ("a tom", "a tabby", "one tom", "one tabby")
    assert apart.class_sentences()[1] == prompts.class_sentences()[1]
    assert apart.background_sentences() == prompts.background_sentences()
    assert apart.background_sentences()[1] == ("a sky", "one sky")
    assert Prompts.from_json(apart.to_json()) == apart
    assert "fusion" not in json.loads(prompts.to_json())  # what older versions read as well
    spaced = prompts.replace(synonyms={"cat": "tom, tabby ,,x"}, fusion="feature", template="{}")
    assert spaced.class_sentences()[0] == ("tom", "tabby", "x")


@pytest.mark.parametrize("method", ["clip_es", "clims"])
def test_own_classes(method):
    names = ("stop sign", "Sky", "cat", "river_boat", "car")
    prompts = Prompts.for_classes(names, method=method)
    assert prompts.classes == names and prompts.template == Prompts.voc(method).template
    gone = set(Prompts.voc().backgrounds) - set(prompts.backgrounds)
    assert gone == {"sign", "sky", "river"}  # word by word: the car does not hide the carpet
    assert list(prompts.backgrounds) == [w for w in Prompts.voc().backgrounds if w not in gone]
    assert prompts.phrases == ("stop sign", "Sky", "cat", "river boat", "car")
    kept = Prompts.for_classes(["grasshopper", "land rover", "rail", "+"], method).backgrounds
    assert {"grass", "railway", "railroad"} <= set(kept) and "land" not in kept


def test_prompts_are_values(prompts):
    twin = Prompts.from_json(prompts.to_json())
    assert twin == prompts and hash(twin) == hash(prompts) and len({twin, prompts}) == 1
    for twin in (copy.deepcopy(prompts), copy.copy(prompts), pickle.loads(pickle.dumps(prompts))):
        assert twin == prompts
    others = {"classes": ("cat", "dog", "cow"), "backgrounds": ("sea", "grass")}
    others |= {"template": "one {}.", "synonyms": {}, "class_backgrounds": {"dog": ("sky",)}}
    for name, value in others.items():
        assert prompts.replace(**{name: value}) != prompts
    other_order = prompts.replace(synonyms={"dog": "puppy", "cat": "tom"})
    same = prompts.replace(synonyms={"cat": "tom", "dog": "puppy"})
    assert other_order == same and hash(other_order) == hash(same)
    with pytest.raises(TypeError):
        prompts.synonyms["cat"] = "kitten"
    words, synonyms = ["sea"], {"cat": "kitten"}
    prompts = Prompts(["cat"], words, template="a {}", synonyms=synonyms)
    words.append("sky")
    synonyms["cat"] = "tom"
    assert prompts.backgrounds == ("sea",) and prompts.phrases == ("kitten",)


def test_json_of_windows_editors(tmp_path):
    text = json.dumps(CAT_AND_DOG, indent=1).encode().replace(b"\n", b"\r\n")
    (tmp_path / "prompts.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert Prompts.from_json(tmp_path / "prompts.json") == build()


BAD = [
    ({"classes": "cat"}, "classes is 'cat', expected a list such as"),
    ({"classes": {"cat": 1}}, "classes is {'cat': 1}, expected a list"),
    ({"classes": []}, "classes is empty, expected at least one word; add one"),
    ({"classes": ["cat", ""]}, "classes has '', expected text"),
    ({"classes": ["cat", " dog"]}, "classes has ' dog', expected text, no spaces around it"),
    ({"classes": ["cat", 3]}, "classes has 3, expected text"),
    ({"classes": ["caf\u00e9", "cafe\u0301"]}, "classes .*written alike"),
    ({"classes": ["cat", "c\u0430t"]}, "classes .*written alike"),
    ({"classes": ["\uff43at", "cat"]}, "classes .*written alike"),
    ({"classes": ["cat\u200b"]}, r".*U\+200B \(ZERO WIDTH SPACE\)"),
    ({"classes": ["polar\u00a0bear"]}, r".*U\+00A0 \(NO-BREAK SPACE\)"),
    ({"backgrounds": None}, "backgrounds is None, expected a list such"),
    ({"backgrounds": ["sea", "Sea"]}, "backgrounds has 'sea' and 'Sea', .* remove one"),
    ({"template": "a"}, "template is 'a', expected text with exactly one {}"),
    ({"template": "a {} {}"}, "template is 'a {} {}', expected"),
    ({"template": "a {0}"}, "template is 'a [{]0}', expected"),
    ({"template": "a {} {x}"}, "template is 'a {} {x}', expected"),
    ({"template": []}, r"template is \[\], expected"),
    ({"template": ["a {}", "b"]}, "template is 'b', expected"),
    ({"synonyms": ["kitten"]}, r"synonyms is \['kitten'\], expected a mapping"),
    ({"synonyms": {"catt": "x"}}, "synonyms has the class 'catt', .* closest: 'cat'; correct it"),
    ({"synonyms": {"cat": 1}}, "synonyms of 'cat' is 1, expected"),
    ({"synonyms": {"cat": " "}}, "synonyms of 'cat' has ' ', expected text"),
    ({"class_backgrounds": {"dog": "sea"}}, "class_backgrounds of 'dog' is 'sea', expected a list"),
    ({"class_backgrounds": {"dog": ["see"]}}, ".*of 'dog' has 'see', .* 'sky'; closest: 'sea'"),
    ({"fusion": "map"}, "fusion is 'map', expected one of sentence, feature"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_words(changes, message):
    for make in (build, build().replace):
        with pytest.raises(ValueError, match="^" + message):
            make(**changes)
    with pytest.raises(ValueError, match="^the text: " + message):
        Prompts.from_json(json.dumps({**CAT_AND_DOG, **changes}))


BAD_JSON = [
    ("", "the text is not JSON .*line 1 column 1"),
    ('{"classes": ["cat",]', "the text is not JSON .*line 1 column (20|19)"),  # by version
    ("[1]", r"the text: \[1\] arrived, expected an object with the keys classes, backgrounds"),
    ('{"backgronds": []}', "unknown key 'backgronds', expected one of .*: 'backgrounds'; corr"),
    ('{"classes": ["cat"]}', "no backgrounds, no template; expected classes, backgrounds, te"),
]


@pytest.mark.parametrize(("text", "message"), BAD_JSON)
def test_bad_json(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        Prompts.from_json(text)
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.json.*" + message.removeprefix("the text")):
        Prompts.from_json(path)


def test_bad_files_and_names(tmp_path, prompts):
    latin, voc = tmp_path / "latin.json", Prompts.voc()
    latin.write_bytes('{"classes": ["Bär"]}'.encode("latin-1"))
    for call, message in (
        (lambda: Prompts.from_json("none.json"), r"no file none\.json; write one with prompts\.to"),
        (lambda: Prompts.from_json(tmp_path), "no file "),
        (lambda: Prompts.from_json("cat " * 5000), "no file cat"),
        (lambda: Prompts.from_json(latin), r"latin\.json is not JSON in UTF-8 .*; correct it"),
        (lambda: Prompts.for_classes(["cat"], None), "no prompts for the method None, expected"),
        (lambda: Prompts.for_classes("cat"), "names is 'cat', expected a list such"),
        (
            lambda: Prompts.for_classes(voc.backgrounds),
            r"names leave none .* write Prompts\(names, b",
        ),
        (lambda: prompts.replace(tempalte="a {}"), "unknown key 'tempalte', .*: 'template'"),
        (lambda: voc.replace(classes=("cat",)), "synonyms has the class 'bird', .*it$"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            call()
    assert len(voc.replace(classes=("cat", "dog"), synonyms=None).class_texts()) == 2


def test_the_gallery_holds_the_published_sets_and_what_was_found():
    folder = Path(__file__).parents[2] / "data" / "prompts"
    table = (folder / "README.md").read_text(encoding="utf-8")
    for file in folder.glob("*.json"):
        prompts, (method, data) = Prompts.from_json(file), file.stem.rsplit("-", 1)
        assert f"`{file.name}`" in table
        if file.stem.startswith("found"):
            made_by = json.loads(file.read_text(encoding="utf-8"))["made_by"]
            which = "best" if file.stem.endswith("best") else "kept"
            assert list(prompts.backgrounds) == made_by[which]
            row = made_by["held out"][which]
            gain = f"{row['gain']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
            assert (
                f"| {', '.join(made_by[which])} | {row['score']:.1f} |" in table and gain in table
            )
        else:
            assert prompts == getattr(Prompts, data)(method=method.replace("-", "_"))
