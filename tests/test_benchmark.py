"""`scripts/benchmark.py`: that it measures, takes turns, judges goals and writes its results. No speed is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

from benchmarks import table, workers  # noqa: E402
from benchmarks.results import Goal, Row, Settings, section  # noqa: E402
from benchmarks.workers import ContenderFailed, Program, Workers  # noqa: E402

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

CONTENDER = """
import sys, time
sys.path.insert(0, {contenders!r})
from serving import serve

def make():
    print("libraries print what they like")
    if {fails!r} == "start":
        raise RuntimeError("cannot start")
    count = 0
    def answer(steps):
        nonlocal count
        count += 1
        if {fails!r} == "answer" and count == 2:
            raise ValueError("cannot go on\\nat all")
        with open({log!r}, "a") as log:
            log.write({name!r} + "\\n")
        return {{"seconds": steps, "count": count}}
    return answer

serve(make)
"""


@pytest.fixture
def contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a program that notes when it is asked, and fails when told to."""
    contenders, log = str(ROOT / "scripts" / "benchmarks" / "contenders"), tmp_path / "log.txt"
    monkeypatch.setattr(workers, "_CONTENDERS", tmp_path)

    def make(name: str, fails: str = "") -> Program:
        text = CONTENDER.format(contenders=contenders, fails=fails, log=str(log), name=name)
        (tmp_path / f"{name}.py").write_text(text)
        return Program(f"{name}.py")

    make.log = log
    return make


def test_contenders_take_turns_in_an_order_that_turns(contender) -> None:
    with Workers(lambda text: None) as running:
        for name in "abc":
            running.start(name, contender(name))
        answers = running.take_turns(3, {"steps": 2})
    # Warming up, then three rounds that each begin with another one.
    assert contender.log.read_text().split() == [*"abc", *"abc", *"bca", *"cab"]
    assert [one["count"] for one in answers["b"]] == [2, 3, 4]


def test_what_wakes_a_contender_is_not_counted(contender) -> None:
    with Workers(lambda text: None) as running:
        running.start("a", contender("a"))
        running.start("breaking", contender("breaking", "answer"))
        answers = running.take_turns(2, {"steps": 2}, waking={"steps": 1})
        assert running.failed == {"breaking": "ValueError: cannot go on"}
    assert [(one["seconds"], one["count"]) for one in answers["a"]] == [(2, 3), (2, 5)]


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="a process's state is read from /proc, which Linux has"
)
def test_contenders_stand_still_while_another_is_asked(contender) -> None:
    with Workers(lambda text: None) as running:
        running.start("a", contender("a"))
        process = running._workers["a"]._process
        assert Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T"
        assert running.ask("a", {"steps": 7})["seconds"] == 7
    assert process.returncode is not None


def test_a_peer_that_fails_is_told_and_left_out(contender) -> None:
    with Workers(lambda text: None) as running:
        running.start("ours", contender("ours"))
        running.start("broken", contender("broken", "start"))
        running.start("breaking", contender("breaking", "answer"))
        answers = running.take_turns(2, {"steps": 1})
        assert running.failed == {"broken": "RuntimeError: cannot start", "breaking": "ValueError: cannot go on"}
    assert list(answers) == ["ours"]


def test_ours_failing_is_an_error(contender) -> None:
    with Workers(lambda text: None) as running, pytest.raises(ContenderFailed, match="cannot start"):
        running.start("ours", contender("ours", "start"), needed=True)


def test_goals_are_judged_by_ratios_within_rounds() -> None:
    row = Row(
        what="step",
        values={"ours": [10.0, 20.0, 30.0], "slow": [5.0, 5.0, 5.0], "fast": [10.0, 25.0, 20.0]},
        goals=(
            Goal(text="fastest", peers=("slow", "fast", "absent"), at_least=1.0),
            Goal(text="absent", peers=("absent",), at_least=1.0),
        ),
    ).to_dict()
    assert row["values"]["ours"] == {"median": 20.0, "min": 10.0, "max": 30.0, "rounds": [10.0, 20.0, 30.0]}
    assert row["ratios"]["fast"] == {"median": 1.0, "min": 0.8, "max": 1.5}
    first, second = row["goals"]
    assert (first["against"], first["met"]) == ("fast", True)
    assert (second["against"], second["met"]) == (None, None)


def test_of_seconds_less_is_better() -> None:
    values = {"ours": [3.0], "quick": [1.0], "slow": [2.5]}
    row = Row(what="start", unit="s", values=values, goals=(Goal(text="g", peers=("quick", "slow"), at_most=1.5),))
    goal = row.to_dict()["goals"][0]
    assert (goal["against"], goal["ratio"]["median"], goal["met"]) == ("quick", 3.0, False)


def results(tmp_path: Path) -> dict[str, object]:
    step = Row(
        what="a step",
        values={"ours": [4.0], "theirs": [8.0]},
        goals=(Goal(text="1 x", peers=("theirs",), at_least=1),),
        checks={"losses apart": 1e-5},
        missing={"other": "no compiler"},
        note="two threads",
    )
    rows = [step, Row(what="a GPU", missing={"ours": "not measured: no GPU on this machine"})]
    settings = Settings(rounds=1, peers=None, folder=tmp_path, quick=False, profile=False, tell=print)
    return section(rows, settings, started=0.0, ended=120.0, load=0.5)


def test_a_section_says_what_it_was_measured_on(tmp_path: Path) -> None:
    found = results(tmp_path)
    assert found["machine"]["cpu"]
    assert found["machine"]["cores"] >= 1
    assert found["versions"]["ours"]["jax"]
    assert found["date"] == "1970-01-01 00:00 UTC"
    assert found["minutes"] == 2.0
    assert found["commit"]


def test_the_table_has_goals_values_and_what_is_missing(tmp_path: Path) -> None:
    text = table.table({"sections": {"training": results(tmp_path)}})
    assert "| a step | 1 x | 0.5 [0.5 - 0.5] | theirs | **no** |" in text
    assert "| theirs | 8 [8 - 8] | 0.5 [0.5 - 0.5] |" in text
    assert "| other | no compiler | |" in text
    assert "Losses apart: 1e-05" in text
    assert "not measured: no GPU on this machine" in text


def test_the_table_goes_between_markers_and_later_files_win(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    for path, date in ((first, "then"), (second, "now")):
        path.write_text(json.dumps({"sections": {"gpu": {**results(tmp_path), "date": date}}}))
    table.put_between_markers(document, table.table(table.read([first, second])))
    text = document.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "now" in text
    assert "then |" not in text
    assert "old" not in text
    document.write_text("no markers")
    with pytest.raises(ValueError, match="no lines"):
        table.put_between_markers(document, "x")


def test_the_page_has_the_markers() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    assert text.index(table.BEGIN) < text.index(table.END)


def test_a_section_runs_and_keeps_the_others_in_its_file(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    output.write_text(json.dumps({"sections": {"gpu": results(tmp_path)}}))
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "video", "--quick", "--rounds", "2"]
    done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    sections = json.loads(output.read_text())["sections"]
    assert list(sections) == ["video", "gpu"]
    every, sparse = sections["video"]["rows"]
    assert every["checks"]["frames scored"] == every["checks"]["frames decoded alone"] == 15
    assert every["checks"]["faces found"] == 15
    assert sparse["checks"]["frames scored"] == sparse["checks"]["frames decoded alone"] == 1
    assert len(every["values"]["ours"]["rounds"]) == 2
    assert sections["video"]["quick"]


def test_peers_that_were_not_installed_are_asked_for(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "startup", "--peers", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert "make peers" in done.stderr
