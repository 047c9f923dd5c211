"""What does not depend on the machine's speed: bytes and crates."""

import importlib.metadata
import io
import pathlib
import re
import shutil
import subprocess
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def zip_size(executable):
    """The archive of one file that scripts/build makes, in bytes."""
    archive = io.BytesIO()
    entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
    with zipfile.ZipFile(archive, "w") as zip:
        zip.writestr(entry, executable.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return len(archive.getvalue())


def folder_zip_size(folder):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zip:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                zip.writestr(zipfile.ZipInfo(str(file.relative_to(folder))), file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return len(archive.getvalue())


def crates(package):
    """The crates that an executable is built of and by, its own included, each version once."""
    tree = ["cargo", "tree", "--locked", "--package", package, "--edges", "normal,build", "--prefix", "none", "--no-dedupe"]
    lines = subprocess.run(tree, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return len({line.removesuffix(" (*)").removesuffix(" (proc-macro)") for line in lines})


def function_packages(folder):
    """Copies what the Python function imports, as `pip install --target` would put it there."""
    folder.mkdir()
    shutil.copy(ROOT / "bench/python/lambda_function.py", folder)
    wanted, done = ["boto3", "urllib3"], set()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files:
            if file.suffix != ".pyc" and not str(file).startswith(".."):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(distribution.locate_file(file), folder / file)
        for requirement in distribution.requires or []:
            if "extra ==" not in requirement:
                wanted.append(re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower())
    return folder
