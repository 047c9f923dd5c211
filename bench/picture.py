"""The picture of the README: one panel for each figure, the shorter bar the better."""

import matplotlib

matplotlib.use("svg")
# Text stays text, and the same figures make the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kosli-key-rotation", "font.family": "sans-serif"})
import matplotlib.pyplot as plt

SHOWN = {"function": "this function", "Python, module client": "Python, boto3", "hello": "hello world, Rust"}
COLOURS = {"function": "#1f6feb", "Python, module client": "#9aa4b2", "hello": "#c8d1dc"}


def draw(results, median, file):
    panels = [
        ("Start to ready, ms", lambda name: median(results, name, "start") * 1e3, "{:.1f}"),
        ("First step over TLS, ms", lambda name: median(results, name, "first") * 1e3, "{:.1f}"),
        ("Warm step over TLS, ms", lambda name: median(results, name, "warm") * 1e3, "{:.1f}"),
        ("Peak memory, MB", lambda name: results[name]["memory"] / 1e6, "{:.1f}"),
        ("Upload, MB", lambda name: results[name]["zip"] / 1e6, "{:.1f}"),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 1.9), sharey=True)
    names = list(SHOWN)
    for axis, (title, value, form) in zip(axes, panels):
        # A step of the hello world's does nothing.
        values = [0 if "step" in title and name == "hello" else value(name) for name in names]
        bars = axis.barh(range(len(names)), values, color=[COLOURS[name] for name in names])
        axis.bar_label(bars, [form.format(value) if value else "" for value in values], padding=3, fontsize=9)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlim(0, max(values) * 1.35)
        axis.set_xticks([])
        axis.set_yticks(range(len(names)), [SHOWN[name] for name in names], fontsize=10)
        axis.tick_params(length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None}, facecolor="white")
