"""Programs that tests start."""

import subprocess
import sys


def run_python(*arguments, **options) -> str:
    """What Python prints that is started with these arguments; it has to end without an error.

    Args:
        arguments: of the command line, such as ``"-c"`` and a text.
        options: of `subprocess.run`.
    """
    options = {"capture_output": True, "text": True, "timeout": 400, **options}
    ended = subprocess.run([sys.executable, *map(str, arguments)], **options, check=False)
    assert ended.returncode == 0, ended.stdout[-1500:] + ended.stderr[-3000:]
    return ended.stdout
