"""`bench/run` takes half an hour, so CI does not run it; that what it measures rotates a key can be seen in a second."""

import os
import subprocess
import sys

import pytest
from conftest import FUNCTION, ROOT, TARGET

# In a process of its own: modules of the benchmark have names that modules of the tests have, too.
ROTATION = """
import sys
from pathlib import Path
from runtime_api import Process
from world import World

emulator, folder, *command = sys.argv[1:]
with World(emulator, Path(folder)) as world, Process(command, {**world.environment, "SSL_CERT_FILE": str(world.authority),
                                                               "AWS_CA_BUNDLE": str(world.authority)}) as process:
    process.invoke(world.new_pending())
    event = world.new_rotation()
    for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        process.invoke({**event, "Step": step})
    assert "AWSCURRENT" in world.label(event)
"""
PYTHON = [sys.executable, ROOT / "bench/python/bootstrap.py", "lambda_function"]


@pytest.mark.parametrize("command", [pytest.param([FUNCTION], id="function"), pytest.param(PYTHON, id="Python")])
def test_what_is_measured_rotates(command, tmp_path):
    path = os.pathsep.join(str(ROOT / folder) for folder in ("bench", "bench/python"))
    done = subprocess.run([sys.executable, "-c", ROTATION, TARGET / "emulator", tmp_path, *command],
                          env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
