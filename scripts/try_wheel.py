"""Build the wheel and use it as a stranger would: in a fresh environment, outside the checkout.

Run by `make wheel` with the checkout's environment; arguments go to pip. An editable installation hides what this
finds: a file or dependency that was forgotten, a package that ships tests, serving that works only with torch around.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("streamfm", "udfs", "connectors")


def main() -> None:
    """Each step ends the run with its own message when it fails."""
    with tempfile.TemporaryDirectory(prefix="streamfm-wheel-") as name:
        folder = Path(name)
        wheel = build(folder / "dist")
        check_contents(wheel)
        shutil.copy(ROOT / "scripts" / "wheel_trial.py", folder)
        trial = [str(folder / "wheel_trial.py")]
        shown("train a bundle in the checkout")
        run(folder, sys.executable, *trial, "train", str(folder))
        python = fresh_environment(folder / "serving")
        install(python, str(wheel))
        shown("serve it from the wheel, without torch")
        run(folder, python, "-I", *trial, "serve", str(folder))
        command = str(Path(python).with_name("streamfm"))
        run(folder, command, "score", "bundle", "events.parquet", "--output", "scored.parquet")
        install(python, f"{wheel}[stream]")
        shown("stream from the wheel")
        run(folder, command, "stream", "bundle", "--in", "events.jsonl", "--out", "scored.jsonl")
        run(folder, python, "-I", *trial, "streamed", str(folder))
        install(python, f"{wheel}[train]")
        shown("train from the wheel")
        shutil.rmtree(folder / "bundle")
        run(folder, python, "-I", *trial, "train", str(folder))
    shown("the wheel works")


def build(target: Path) -> Path:
    """The wheel, built from the source distribution, so that that is tried too and no old build/ leaks in."""
    shown("build the wheel from the source distribution")
    run(ROOT, sys.executable, "-m", "build", "--outdir", str(target))
    (wheel,) = target.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Leave unless the wheel holds exactly the modules of the three packages."""
    run(ROOT, str(Path(sys.executable).with_name("check-wheel-contents")), str(wheel))
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.suffix == ".py" or path.name == "py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    if found != expected:
        sys.exit(f"error: missing from the wheel: {sorted(expected - found)}; too much: {sorted(found - expected)}")


def fresh_environment(folder: Path) -> str:
    """The interpreter of a new virtual environment."""
    venv.create(folder, with_pip=True)
    return str(folder / "bin" / "python")


def install(python: str, what: str) -> None:
    """Install into an environment the versions that are pinned."""
    shown(f"install {Path(what).name}")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    pins = ["--constraint", str(ROOT / "constraints.txt")]
    run(ROOT, *pip, "install", "--quiet", *sys.argv[1:], *pins, what)
    run(ROOT, *pip, "check")


def shown(step: str) -> None:
    """Say what comes next."""
    print(f"== {step}", flush=True)


def run(folder: Path, *command: str) -> None:
    """Run a command in a folder; leave with its exit code when it fails."""
    done = subprocess.run(command, cwd=folder)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {done.returncode}")


if __name__ == "__main__":
    main()
