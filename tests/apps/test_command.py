"""The command as a user meets it: what it prints, and one sentence for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from run_simulation import main


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "run_simulation.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_plain_lines_and_a_summary_are_printed(tiny_vit: Path, tmp_path: Path) -> None:
    done = command(
        f"backbone={tiny_vit}", "exits=3", "rounds=2", "evaluate-every=1", f"output-dir={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("round   1/2  loss ")
    assert "accuracy % by exit  2: " in lines[0]
    assert "\x1b" not in done.stdout
    assert f"Report: {tmp_path}/report.html" in done.stdout
    assert done.stderr == ""


MISTAKES = {
    "unknown key": (["roundz=3"], "'roundz' is no setting; did you mean rounds"),
    "bad value": (["method=magic"], "method: 'magic' is not one of"),
    "missing config": (["--config", "no.toml"], "there is no settings file no.toml"),
    "missing backbone": (["backbone=/no/where"], "there is no model in /no/where"),
    "unknown data": (["backbone={vit}", "dataset=digit"], "digits"),
    "missing data folder": (["backbone={vit}", "dataset=folder", "data-dir=/no/data"], "/no/data"),
    "exits that do not fit": (["backbone={vit}", "exits=4"], "4 exits do not divide 6 blocks"),
    "tier too deep": (["backbone={vit}", "exits=3", "tiers=a depth=9 share=1"], "between 1 and 6"),
    "tier below the first exit": (
        ["backbone={vit}", "exits=3", "tiers=a depth=1 share=1"],
        "reaches no exit",
    ),
    "tier with a reserved name": (
        ["backbone={vit}", "exits=3", "tiers=mean depth=6 share=1"],
        "give the tier another name",
    ),
    "impossible partition": (
        ["backbone={vit}", "exits=3", "partition=natural"],
        "partition",
    ),
    "resume from nothing": (["backbone={vit}", "exits=3", "resume=/no/run"], "no checkpoint in"),
    "image size": (["backbone={vit}", "image-size=20"], "not a multiple"),
    "output in a file": (["backbone={vit}", "exits=3", "output-dir={vit}/config.json/x"], "output"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_in_one_sentence(
    case: str, tiny_vit: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, sentence = MISTAKES[case]
    given = [a.format(vit=tiny_vit) for a in arguments]
    assert main([f"output-dir={tmp_path}", *given]) == 2
    printed = capfd.readouterr()
    assert sentence in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_hub_without_a_connection_ends_in_one_sentence() -> None:
    done = command("backbone=nobody/nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("error: backbone: the files of 'nobody/nothing' are neither")
    assert done.stderr.count("\n") == 1
