"""Measures the function beside a hello world and beside Python, and writes the table and the picture. Called by bench/run.

Instructions are counted by callgrind: they hardly vary, and are what to compare from one day to another. Times vary with the
machine and its other work: all variants take turns within one run, and a ratio is the median of the ratios within the rounds.
"""

import argparse
import datetime
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

import sizes
from picture import draw
from runtime_api import Process
from world import World

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
MUSL = "x86_64-unknown-linux-musl"


class Variant:
    """Something that is started and invoked."""

    def __init__(self, name, command, environment, *, archive=None, rotates=True, warm=20, package=None):
        self.name, self.command, self.environment = name, command, environment
        self.rotates, self.warm, self.package = rotates, warm, package
        # The file or the folder that would be uploaded.
        self.archive = archive

    def start(self, environment, prefix=()):
        return Process([*prefix, *self.command], {**environment, **self.environment})


def variants(target, python, trust, site_packages):
    own = {"SSL_CERT_FILE": str(trust["authority"])}
    # In both cases who is trusted is the public authorities and ours.
    bundle = {"SSL_CERT_FILE": str(trust["bundle"]), "AWS_CA_BUNDLE": str(trust["bundle"])}
    scripts = str(ROOT / "bench/python/bootstrap.py")
    executables = [
        ("function", "kosli-key-rotation", target / "release"),
        ("function, musl", "kosli-key-rotation", target / MUSL / "release"),
        ("hello", "hello", target / "release"),
    ]
    found = []
    for name, package, folder in executables:
        executable = folder / package
        if executable.exists():
            rotates = package != "hello"
            found.append(Variant(name, [str(executable)], own, archive=executable, rotates=rotates, package=package))
    for name, clients in (("Python, module client", "module"), ("Python, client per call", "call")):
        command = [python, scripts, "lambda_function"]
        found.append(Variant(name, command, {**bundle, "CLIENTS": clients}, archive=site_packages, warm=4))
    return found


def count_instructions(variant, world, folder):
    """Start, first step, warm step and whole rotation, as differences of whole runs."""
    def counted(events):
        out = folder / "callgrind.out"
        out.unlink(missing_ok=True)
        valgrind = [shutil.which("valgrind"), "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}"]
        # A fixed order of Python's dictionaries: else its counts vary by some percent.
        with variant.start({**world.environment, "PYTHONHASHSEED": "0"}, valgrind) as process:
            for event in events:
                process.invoke(event)
        return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(errors="replace"), re.M)[1])

    start = counted([])
    counts = {"start": start}
    if not variant.rotates:
        return counts
    event = world.new_pending()
    first = counted([event])
    counts["first"] = first - start
    counts["warm"] = (counted([event] * (1 + variant.warm)) - first) // variant.warm
    event = world.new_rotation()
    counts["rotation"] = counted([{**event, "Step": step} for step in STEPS]) - start
    return counts


def take_times(variant, world):
    """One process: its start, its first step and its warm ones, in seconds."""
    with variant.start(world.environment) as process:
        times = {"start": process.start_s}
        event = world.new_pending() if variant.rotates else {"Step": "testSecret"}
        times["first"] = process.invoke(event)[1]
        times["warm"] = statistics.median(process.invoke(event)[1] for _ in range(variant.warm))
    return times


def rotate(variant, world):
    """A whole rotation in one process, as on a Lambda that is used again: its time, and the peak of its memory."""
    with variant.start(world.environment) as process:
        if not variant.rotates:
            process.invoke({})
            return {"memory": process.peak_memory()}
        event = world.new_rotation()
        seconds = sum(process.invoke({**event, "Step": step})[1] for step in STEPS)
        assert "AWSCURRENT" in world.label(event), f"{variant.name} has not rotated"
        return {"rotation": seconds, "memory": process.peak_memory()}


def measure(found, world, rounds, folder, valgrind):
    results = {variant.name: {"times": [], "rotations": [], "counts": {}} for variant in found}
    for number in range(rounds):
        # Everyone follows everyone else once in a while.
        for variant in found[number % len(found):] + found[:number % len(found)]:
            results[variant.name]["times"].append(take_times(variant, world))
            if number % 5 == 0:
                results[variant.name]["rotations"].append(rotate(variant, world))
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr)
    print(file=sys.stderr)
    for variant in found if valgrind else []:
        print(f"counting the instructions of {variant.name}", file=sys.stderr)
        results[variant.name]["counts"] = count_instructions(variant, world, folder)
    for variant in found:
        result = results[variant.name]
        result["memory"] = statistics.median(rotation["memory"] for rotation in result["rotations"])
        if variant.rotates:
            result["rotation"] = statistics.median(rotation["rotation"] for rotation in result["rotations"])
        if variant.package:
            result["executable"] = variant.archive.stat().st_size
            result["zip"] = sizes.zip_size(variant.archive)
            result["crates"] = sizes.crates(variant.package)
        elif variant.archive:
            result["zip"] = sizes.folder_zip_size(variant.archive)
    return results


def median(results, name, what):
    return statistics.median(round_[what] for round_ in results[name]["times"])


def paired(results, name, other, what):
    """The median of the ratios of the two within a round."""
    pairs = zip(results[name]["times"], results[other]["times"])
    return statistics.median(one[what] / two[what] for one, two in pairs)


def rows(results):
    """The table: a label, the formatted value of each variant, the ratios, the target."""
    function, hello, module = "function", "hello", "Python, module client"

    def row(label, value, target, ratio=None):
        cells = [value(results, name) for name in results]
        ratio = ratio or (lambda name, other: cells_ratio(value, name, other))
        return [label, *(text for _, text in cells), times_of(ratio(function, hello)), parts_of(ratio(function, module)), target]

    def cells_ratio(value, name, other):
        (one, _), (two, _) = value(results, name), value(results, other)
        return one / two if one and two else None

    def of(read, scale, form):
        def value(results, name):
            try:
                number = read(results, name)
            except KeyError:
                return None, ""
            return number, form.format(number / scale)
        return value

    def time(what):
        def read(results, name):
            if what != "start" and "rotation" not in results[name]:
                # Its steps do nothing.
                raise KeyError(what)
            return median(results, name, what)
        value = of(read, 1e-3, "{:.2f}")
        return value, (lambda name, other: paired(results, name, other, what))

    def count(what):
        return of(lambda results, name: results[name]["counts"][what], 1e6, "{:.2f}")

    def plain(what, scale, form):
        return of(lambda results, name: results[name][what], scale, form)

    start, start_ratio = time("start")
    first, first_ratio = time("first")
    warm, warm_ratio = time("warm")

    def against_python(ratio):
        return lambda name, other: None if other == hello else ratio(name, other)

    table = [
        row("start to first `next`, ms", start, "1.6 × hello; 1/70 of Python", start_ratio),
        row("start, million instructions", count("start"), "3 × hello (musl: 0.9 M)"),
        row("first `testSecret`, TLS, ms", first, "", against_python(first_ratio)),
        row("the same, million instructions", count("first"), "6 M; 1/15 of Python"),
        row("warm `testSecret`, TLS, ms", warm, "", against_python(warm_ratio)),
        row("the same, million instructions", count("warm"), "1.4 M; 1/4 of Python"),
        row("whole rotation in one process, ms", plain("rotation", 1e-3, "{:.1f}"), ""),
        row("the same, million instructions", count("rotation"), ""),
        row("peak memory over a rotation, MB", plain("memory", 1e6, "{:.1f}"), "8 MB (musl: 6.5)"),
        row("executable, MB", plain("executable", 1e6, "{:.2f}"), ""),
        row("zip, MB", plain("zip", 1e6, "{:.2f}"), "2.3 MB"),
        row("crates", plain("crates", 1, "{:.0f}"), "175"),
    ]
    head = ["", *results, "function : hello", "function : Python", "target"]
    return head, table


def times_of(ratio):
    return f"{ratio:.2f} ×" if ratio else ""


def parts_of(ratio):
    return "" if not ratio else f"1/{1 / ratio:.0f}" if ratio < 0.1 else f"1/{1 / ratio:.1f}" if ratio < 1 else f"{ratio:.2f} ×"


def markdown(head, table, caption):
    lines = [head, ["---", *["---:"] * (len(head) - 2), "---"], *table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{caption}\n"


def caption(rounds, has_valgrind):
    with open("/proc/cpuinfo") as information:
        model = next((line.split(":", 1)[1].strip() for line in information if line.startswith("model name")), "unknown")
    with open("/proc/meminfo") as information:
        memory = int(next(information).split()[1]) / 1e6
    rust = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[1]
    import boto3
    counted = "instructions by callgrind" if has_valgrind else "no valgrind here: instructions were not counted"
    return (
        f"Measured on {datetime.date.today()}: {os.cpu_count()} × {model}, {memory:.0f} GB, {platform.system()} "
        f"{platform.release().split('-')[0]}, glibc {platform.libc_ver()[1]}, Rust {rust}, Python "
        f"{platform.python_version()} with boto3 {boto3.__version__}; medians of {rounds} interleaved processes; {counted}. "
        "Ratios to Python are to the one with module-level clients."
    )


def between_markers(page, text):
    """Replaces what was written before."""
    begin, end = "<!-- written by bench/run -->\n", "<!-- end -->"
    before, found, rest = page.read_text().partition(begin)
    _, also_found, after = rest.partition(end)
    assert found and also_found, f"{page} lacks the markers"
    page.write_text(before + begin + "\n" + text + end + after)


def main():
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures the function beside others.")
    parser.add_argument("--rounds", type=int, default=25, help="processes of each variant that are timed (default: 25)")
    parser.add_argument("--write", action="store_true", help="put table and picture into the documentation")
    parser.add_argument("--no-instructions", action="store_true", help="do without valgrind, which takes minutes")
    parser.add_argument("--target", type=pathlib.Path, default=ROOT / "target", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    has_valgrind = bool(shutil.which("valgrind"))
    if not has_valgrind:
        print("There is no valgrind: the rows with instructions stay empty.", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # What a user would upload, without matplotlib and whatever else only the benchmark needs.
        site_packages = sizes.function_packages(folder / "python")
        with World(arguments.target / "release/emulator", folder) as world:
            import botocore
            bundle = folder / "bundle.pem"
            public = pathlib.Path(botocore.__file__).with_name("cacert.pem")
            bundle.write_text(public.read_text() + world.authority.read_text())
            trust = {"authority": world.authority, "bundle": bundle}
            found = variants(arguments.target, sys.executable, trust, site_packages)
            results = measure(found, world, arguments.rounds, folder, has_valgrind and not arguments.no_instructions)
    head, table = rows(results)
    text = markdown(head, table, caption(arguments.rounds, has_valgrind and not arguments.no_instructions))
    print(text)
    if arguments.write:
        between_markers(ROOT / "docs/performance.md", text)
        draw(results, median, ROOT / "docs/performance.svg")


main()
