"""What goes into the zip: our sources and their dependencies, compiled beforehand, without what no function uses.

`/var/task` cannot be written to and wheels bring no compiled files, so without this every cold start would compile all
that it imports. Chalice packs a project as it finds it; here is one made for it, with everything in `vendor/`.
"""

from __future__ import annotations

import compileall
import hashlib
import inspect
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

import chalice
import chalice.app

from deploy.stage import ROOT, CannotDeploy

BUILDS = ROOT / ".chalice" / "build"
SOURCES = ("app.py", "chalicelib")
TASK = "/var/task"  # where a function finds its code: compiled files say so in tracebacks
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
#: The newest glibc that a runtime's Amazon Linux has, by Python.
GLIBC = {(3, 11): 26, (3, 12): 34, (3, 13): 34, (3, 14): 34}
#: Of the 430 AWS services that botocore describes, those that we call.
SERVICES = {"kms", "lambda", "sqs", "ssm", "sts"}
#: What no function imports: commands, stubs, examples, and the parser that only builds of cffi need.
NEEDLESS = ("bin", "boto3/data", "boto3/examples", "dateutil/zoneinfo", "pycparser", "pycparser-*.dist-info")


def build(name: str, architecture: str) -> Path:
    """A fresh Chalice project in `.chalice/build/<name>`, dependencies and all; returns its folder."""
    fetched = dependencies(architecture)
    project = BUILDS / name
    shutil.rmtree(project, ignore_errors=True)
    vendor = project / "vendor"
    shutil.copytree(fetched, vendor, copy_function=os.link)  # 70 MB: not twice
    _add_sources(project)
    (project / "requirements.txt").write_text("")  # all of it is in vendor/ already
    (project / ".chalice").mkdir()
    return project


def _add_sources(project: Path) -> None:
    for source in SOURCES:
        found = ROOT / source
        if found.is_dir():
            shutil.copytree(found, project / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, project / source)
    compile_all(project / "chalicelib", project)
    # Chalice adds app.py and its own runtime without compiled files: those come along in vendor/.
    runtime = project / "vendor" / "chalice"
    runtime.mkdir(exist_ok=True)
    for module in (chalice, chalice.app):
        shutil.copy(inspect.getfile(module), runtime)
    shutil.copy(project / "app.py", project / "vendor" / "app.py")
    for module_file in (runtime / "__init__.py", runtime / "app.py", project / "vendor" / "app.py"):
        compile_all(module_file, project / "vendor")
        module_file.unlink()


def compile_all(source: Path, root: Path, *, instead: bool = False) -> None:
    """Compile a file or a folder; ``instead`` of its sources, which then are deleted.

    Compiled files are used unseen, so what a zip does to times does not matter.
    """
    how = {
        "legacy": instead,
        "quiet": 2,
        "force": True,
        "stripdir": str(root),
        "prependdir": TASK,
        "invalidation_mode": PycInvalidationMode.UNCHECKED_HASH,
    }
    compiled = compileall.compile_dir(source, **how) if source.is_dir() else compileall.compile_file(source, **how)  # type: ignore[arg-type]
    if not compiled:
        raise CannotDeploy(f"{source} cannot be compiled.")
    if instead:
        for file in source.rglob("*.py"):
            file.unlink()


def dependencies(architecture: str) -> Path:
    """A folder with what `requirements.txt` asks for, for Lambda's machine; made once, and kept while that stays."""
    requirements = ROOT / "requirements.txt"
    version = platform.python_version()
    recipe = [requirements.read_text(), version, architecture, Path(__file__).read_text()]
    key = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]
    folder = BUILDS / f"dependencies-{key}"
    if not folder.exists():
        print(f"Fetching dependencies for Python {version} on {architecture} ...", flush=True)
        unfinished = BUILDS / f"unfinished-{key}"
        shutil.rmtree(unfinished, ignore_errors=True)
        _install(requirements, unfinished, architecture)
        _prune(unfinished)
        compile_all(unfinished, unfinished, instead=True)  # tracebacks name file and line all the same
        unfinished.rename(folder)
    return folder


def _install(requirements: Path, target: Path, architecture: str) -> None:
    machine, python = MACHINES[architecture], sys.version_info[:2]
    known = [f"manylinux{old}" for old in (1, 2010, 2014)]
    known += [f"manylinux_2_{minor}" for minor in range(5, GLIBC[python] + 1)]
    platforms = [part for each in known for part in ("--platform", f"{each}_{machine}")]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--target", target, "--requirement", requirements, "--only-binary=:all:", "--no-compile"),
            *("--implementation", "cp", "--python-version", f"{python[0]}.{python[1]}", *platforms),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CannotDeploy(f"pip found no packages for Lambda:\n{done.stdout.strip()}")


def _prune(folder: Path) -> None:
    data = folder / "botocore" / "data"
    needless = [each for each in data.iterdir() if each.is_dir() and each.name not in SERVICES]
    needless += [path for pattern in NEEDLESS for path in folder.glob(pattern)]
    needless += folder.rglob("*.pyi")
    for path in needless:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":  # what the tests of deployments need from the network, so that they need none
    for each in MACHINES:
        dependencies(each)
