"""Write constraints.txt: the versions that a fresh installation of everything brings today.

Run by `make constraints`; needs nothing but Python with venv. Arguments go to pip.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

EXTRAS = "dev"
HEADER = """\
# Every version that streamfm's checks ran with, so that an installation can be repeated:
#   pip install --constraint constraints.txt '.[train]'
# Made by `make constraints`: a fresh environment, `pip install '.[{extras}]'`, `pip freeze`, under Python {python}.
# A local part (torch's +cpu) is left out, so that the builds of other platforms fit too.
"""


def main() -> None:
    """Replace constraints.txt; nothing is written when the installation fails."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="streamfm-constraints-") as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder) / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *sys.argv[1:], f"{root}[{EXTRAS}]"], check=True)
        frozen = subprocess.run([*pip, "freeze", "--exclude", "streamfm"], check=True, capture_output=True, text=True)
    pins = [line.partition("+")[0] for line in frozen.stdout.splitlines()]
    header = HEADER.format(extras=EXTRAS, python=f"{sys.version_info.major}.{sys.version_info.minor}")
    (root / "constraints.txt").write_text(header + "\n".join(pins) + "\n")


if __name__ == "__main__":
    main()
