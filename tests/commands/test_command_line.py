"""The command line: numbers and folders are refused before any work, and never by a traceback."""

import errno
import functools
import inspect
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.voc_layout import build_voc
from wsss_kit.__main__ import main
from wsss_kit.commands import run_folder, train_method
from wsss_kit.commands.line import _COMMANDS, _NAMES, _SHIPPED, _load, parse
from wsss_kit.commands.train_method import METHODS, options_of

COMMANDS = {
    "demo": ["demo"],
    "baseline": ["baseline"],
    "paper-clip": ["train", "paper-clip"],
    "paper-trunk": ["train", "paper-trunk"],
    "bench": ["bench", "--model", "paper"],
    "download": ["download", "pets", "--from", "nowhere"],
    "masks": ["masks", "clip-es", "--data", "paper"],
    "reproduce": ["reproduce", "paper/clip-es", "--run"],
    "cam": ["train", "cam", "--data", "paper", "--limit", "4", "--epochs", "1"],
}


def refused(arguments, capsys):
    """What is printed when a command refuses; its exit status is 2."""
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


BEYOND = [
    *(("paper-clip", "--steps", text) for text in ("1.5", "many", "")),
    *(("cam", "--crop", "many"), ("cam", "--learning-rate", "nan"), ("cam", "--scales", "x")),
    *(("baseline", option, "nan") for option in ("--seeds", "--limit", "--threshold")),
    *((command, "--device", "gpu") for command in ("bench", "reproduce", "masks", "cam")),
    *(("masks", option, "0") for option in ("--batch-size", "--limit", "--power")),
    ("masks", "--workers", "-1"),
    *(("masks", option, "7") for option in ("--threshold", "--min-confidence")),
    *(("bench", "--threads", text) for text in ("0", "999999999999")),
    *(("masks", option, "") for option in ("--root", "--split", "--affinity")),
    *(("cam", "--root", ""), ("demo", "--pictures", ""), ("download", "--from", "")),
]


@pytest.mark.parametrize(("command", "option", "text"), BEYOND)
def test_numbers_out_of_range(command, option, text, tmp_path, capsys):
    message = refused([*COMMANDS[command], "--out", str(tmp_path), option, text], capsys)
    assert f"wsss_kit {COMMANDS[command][0]}: " in message and ", expected" in message
    assert option in message or option.removeprefix("--").replace("-", "_") in message
    assert text in message
    assert [path.name for path in tmp_path.iterdir()] in ([], [".lock"])


# -- options ----------------------------------------------------------------------------------

SOURCES = {
    **{tuple(name.split()): (where,) for name, (where, _) in _COMMANDS.items()},
    **{("train", name): (where,) for name, where in _SHIPPED.items()},
    **{("train", what): ("train_method:train_method", what) for what in METHODS},
}
"""Words of a command -> its function; of a training, the method whose arguments it takes too."""


@pytest.mark.parametrize("words", SOURCES, ids=" ".join)
def test_help_lists_every_argument_with_the_text_of_its_docstring(words, capsys, monkeypatch):
    where, *method = SOURCES[words]
    functions = [_load(where), *(f for what in method for f in train_method.called_by(what))]
    names = options_of(*method) if method else inspect.signature(functions[0]).parameters
    monkeypatch.setenv("COLUMNS", "400")
    assert main([*words, "--help"]) == 0
    page = capsys.readouterr().out
    for name in names:
        function = next(f for f in functions if name in inspect.signature(f).parameters)
        argument = inspect.signature(function).parameters[name]
        flag = _NAMES.get(name, f"--{name.replace('_', '-')}")
        positional = argument.kind is argument.POSITIONAL_ONLY
        assert_shown(page, name.upper() if positional else flag, function, name)


def assert_shown(page, shown, function, name):
    (line,) = (each for each in page.splitlines() if re.search(rf"[│*] +{shown}( |$)", each))
    text = re.search(rf"^ +{name}: (.*)$", inspect.getdoc(function), re.MULTILINE)[1]
    words = [word.strip("`.,;:") for word in re.sub("`+", "", text).split()[:6]]
    assert all(word in line for word in words), (line, words)


def test_the_first_page_lists_the_commands_and_is_quick():
    code = "import sys, torch, time; start = time.process_time()"
    code += "; from wsss_kit.__main__ import main; main(['--help'])"
    code += "; print(time.process_time() - start < 3)"
    code += "; print([m for m in ('matplotlib', 'sklearn', 'open_clip') if m in sys.modules])"
    code += "; main(['evaluate', 'masks'])"
    given = {**os.environ, "MPLBACKEND": "nonsense"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given)
    assert "variable MPLBACKEND is 'nonsense' (Key" in run.stderr and "set it to agg" in run.stderr
    *page, quick, heavy = run.stdout.splitlines()
    assert quick == "True" and heavy == "[]"
    assert all(any(f" {c.split()[0]} " in line for line in page) for c in (*_COMMANDS, "train"))


@pytest.mark.parametrize("words", [[], ["train"]])
def test_a_command_line_without_a_command_shows_which_there_are(words, capsys):
    assert main(words) == 2
    assert "Commands" in capsys.readouterr().out


OPTIONS = {
    "paper-clip": {"steps", "fall", "seed", "workers", "device", "torn"},
    "paper-trunk": {"steps", "batch", "seed", "workers", "teacher"},
    "paper-clims": {"seed", "n_train", "n_val"},
    "paper-sc-cam": {"seed", "n_train", "n_val"},
    **{what: {"device", "resume", "validate", *options_of(what)} for what in METHODS},
}
OPTIONS["affinity"] -= {"validate"}


@pytest.mark.parametrize("what", OPTIONS)
def test_a_training_takes_its_options_and_no_other(what, tmp_path, capsys):
    """Even the usual value: who says --device cpu to the backbone believes that it can be
    another."""
    function, _ = parse(["train", what])
    assert set(inspect.signature(function).parameters) == {"out", *OPTIONS[what]}
    flag = "--device" if "device" not in OPTIONS[what] else "--colour"
    message = refused(["train", what, "--out", str(tmp_path), f"{flag}=cpu"], capsys)
    assert f"wsss_kit train: Unknown option: {flag}" in message and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_none_or_taken_is_refused(command, tmp_path, capsys, monkeypatch):
    """Root may write anywhere, so the system's refusal is made up."""
    arguments, file, out = COMMANDS[command], tmp_path / "file", tmp_path / "out"
    if command == "baseline":  # its data is there, so that only its folder can be wrong
        root = str(build_voc(tmp_path / "voc"))
        arguments = ["baseline", "--root", root, "--backbone", "resnet18"]
    file.write_text("mine")
    monkeypatch.chdir(tmp_path)
    for path in (file, file / "deeper"):
        message = refused([*arguments, "--out", str(path)], capsys)
        assert str(file) in message and "--out" in message
    assert file.read_text() == "mine"
    with run_folder(out):
        message = refused([*arguments, "--out", str(out)], capsys)
        assert "another run is writing into" in message and str(out) in message
    original = Path.mkdir

    def refuse(self, *_, **__):
        if self.name == "out":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return original(self, *_, **__)

    monkeypatch.setattr(Path, "mkdir", refuse)
    message = refused([*arguments, "--out", str(out)], capsys)
    assert os.strerror(errno.ENOSPC) in message and "give --out another folder" in message


# -- one run a folder -----------------------------------------------------------------------


def test_a_run_that_was_killed_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from wsss_kit.commands import run_folder\n"
        "with run_folder(sys.argv[1]): print('in', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in\n"
    with pytest.raises(ValueError, match="another run is writing"), run_folder(tmp_path):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    started = time.monotonic()
    with run_folder(tmp_path) as folder:
        assert folder == tmp_path and time.monotonic() - started < 5


# -- stopping -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_stopped_command_promises_what_it_keeps(
    command, checkpoint, tmp_path, capsys, monkeypatch
):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    for where, *_ in SOURCES.values():
        function = functools.wraps(_load(where))(lambda *_, **__: stopped())
        monkeypatch.setattr(f"wsss_kit.commands.{where.replace(':', '.')}", function)
    if checkpoint:
        (tmp_path / "checkpoint.safetensors").touch()
    assert main([*COMMANDS[command], "--out", str(tmp_path)]) == 130
    goes_on = checkpoint and command in ("paper-clip", "cam")
    message = "goes on from the last checkpoint" if goes_on else "begins again"
    if goes_on and command == "cam":
        message = f"with --resume {message}"
    if command in ("download", "masks", "reproduce"):  # what came so far lies there
        message = "goes on from what is written"
    assert message in capsys.readouterr().err
