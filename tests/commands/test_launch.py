"""Commands in processes of their own: what is run, what is shown, and how it stops."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsss_kit.commands import launch as module
from wsss_kit.commands.generate import read_masks
from wsss_kit.commands.launch import command_of, launch


def test_masks_of_two_processes_with_their_bar(tmp_path, capsys):
    options = {"data": "paper", "limit": 6, "batch_size": 2, "device": "cpu"}
    launch("masks", "clip-es", out=tmp_path, processes=2, **options)
    said = capsys.readouterr().out
    assert "\rmasks:" in said and "it/s]" in said  # a bar, written over
    assert said.rstrip().endswith("holds 6 masks (masks/, manifest.json).")
    assert said.count("holds 6 masks") <= 2 and len(read_masks(tmp_path).masks) == 6


def test_what_fails_says_why(tmp_path, capsys):
    with pytest.raises(RuntimeError, match=r"train cam failed with exit status 2; it said:\n.*--x"):
        launch("train", "cam", x=3, out=tmp_path)
    assert "Unknown option: --x" in capsys.readouterr().out


def test_the_command_line_of_options():
    words = command_of("train", "cam", scales=(1.0, 0.5), resume=True, root=None, flip=False)
    expected = ["train", "cam", "--scales", "1.0", "0.5", "--resume", "--no-flip"]
    assert words[1:] == ["-m", "wsss_kit", *expected]
    assert words[0] == sys.executable
    shared = command_of("masks", Path("a"), processes=3)
    assert shared[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    with pytest.raises(ValueError, match="only masks and train share their work"):
        command_of("demo", processes=2)
    with pytest.raises(ValueError, match="processes is 0"):
        command_of("masks", processes=0)


def test_bars_are_written_over_and_lines_are_not(capsys, monkeypatch):
    script = "import sys; w = sys.stdout.write; w('10 %\\r'); w('100 % done\\r'); w('end\\n')"
    script += "; w('tail')"
    monkeypatch.setattr(module, "command_of", lambda *_, **__: [sys.executable, "-c", script])
    launch("anything")
    assert capsys.readouterr().out == "10 %\r100 % done\rend       \ntail\n"


def test_an_interrupt_reaches_every_process(tmp_path, monkeypatch):
    """The processes of a run are in a session of their own, and none is left behind."""
    child = f"import time, os; open({str(tmp_path)!r} + '/%d' % os.getpid(), 'w'); time.sleep(60)"
    script = "import subprocess, sys; print('in', flush=True)"
    script += f"; subprocess.run([sys.executable, '-c', {child!r}])"
    monkeypatch.setattr(module, "command_of", lambda *_, **__: [sys.executable, "-c", script])
    started = time.monotonic()

    def stop_when_both_run(line, **_):
        while not list(tmp_path.iterdir()) and time.monotonic() - started < 20:
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", stop_when_both_run)
    with pytest.raises(KeyboardInterrupt):
        launch("anything")
    (pid,) = (int(path.name) for path in tmp_path.iterdir())
    for _ in range(100):
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
        )
        if not state.stdout.strip() or state.stdout.startswith("Z"):
            break
        time.sleep(0.05)
    else:
        raise AssertionError("a process was left behind")
    assert time.monotonic() - started < 40


def test_a_notebook_shows_the_bars(tmp_path):
    """A cell that starts two processes, in a kernel: its output holds their bar and their end."""
    import nbformat
    from nbclient import NotebookClient

    options = f"data='paper', limit=4, device='cpu', out={str(tmp_path)!r}, processes=2"
    code = "from wsss_kit.commands.launch import launch\n"
    code += f"launch('masks', 'clip-es', {options})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = "".join(each.get("text", "") for each in notebook.cells[0].outputs)
    assert "masks:" in shown and "it/s" in shown
    assert f"{tmp_path} holds 4 masks" in shown
