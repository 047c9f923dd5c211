"""`.ci/run` says at its end what was left out, and fails for it where it is asked to be strict."""

import subprocess

import pytest
from conftest import ROOT

SCRIPT = (ROOT / ".ci/run").read_text()
# The functions, and no check.
HEAD = SCRIPT[: SCRIPT.index('\ncheck "lock file"')]
CHECKS = """
check "a part is left out" bash -c 'echo "the rest: it cannot be had" >>"$SKIPPED_BECAUSE"'
check "all is left out" bash -c 'echo "no such tool" >>"$SKIPPED_BECAUSE"; exit 77' || true
check "it passes" true
"""


@pytest.fixture
def run(tmp_path):
    def run(checks, *words):
        (tmp_path / ".ci").mkdir(exist_ok=True)
        script = tmp_path / ".ci/run"
        script.write_text(HEAD + checks + "\nall_passed\n")
        done = subprocess.run(["bash", script, *words], capture_output=True, text=True)
        return done.returncode, done.stdout

    return run


def test_what_was_left_out_is_said(run):
    code, said = run(CHECKS)
    assert code == 0
    assert "SKIPPED: a part is left out: the rest: it cannot be had\nSKIPPED: all is left out: no such tool\n" in said
    assert "  a part is left out (" in said and "  it passes (" in said and "  all is left out (" not in said


def test_strict_fails_for_it(run):
    assert run(CHECKS, "--strict")[0] == 1
    assert run('check "it passes" true', "--strict")[0] == 0


@pytest.mark.parametrize("command", ["false", "exit 77", "python_environment here no-such-requirements"])
def test_a_failure_is_one(run, command):
    """77 without a reason is no skip."""
    checks = f'broken() {{ {command}; }}\ncheck "it fails" broken || true\ncheck "it passes" true'
    checks = checks.replace("exit 77", "return 77")
    code, said = run(checks)
    assert code != 0 and "FAILED: it fails" in said and "Passed:" not in said
