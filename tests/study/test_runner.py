"""Running a plan: order, what is skipped, failures, interruptions."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from histotransfer_pl.runs.state import marker, read_states, running
from histotransfer_pl.runs.steps import Plan, Step
from histotransfer_pl.study.progress import remaining_steps
from histotransfer_pl.study.runner import Outcome, RedirectableStream, Runner
from tests.study.conftest import Main


def names(steps: Sequence[Step]) -> list[str]:
    return [step.name for step in steps]


def states(folder: Path, plan: Plan) -> dict[str, str]:
    return {name: state.state for name, state in read_states(folder, plan).items()}


def failing(main: Main, bad: str, how: Callable[[], int]) -> Main:
    return lambda argv: how() if argv[1] == bad else main(argv)


def test_everything_runs_once_and_then_nothing(
    chain: Plan, touch: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Runner(chain, tmp_path, touch).run()
    assert outcome == Outcome(done=["a", "b", "c", "d"])
    assert set(states(tmp_path, chain).values()) == {"done"}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["[1/4]", "a", "done"], ["[2/4]", "b", "done"],
        ["[3/4]", "c", "done"], ["[4/4]", "d", "done"],
    ]  # fmt: skip
    assert (tmp_path / "logs" / "b.log").read_text() == (
        "$ python -m histotransfer_pl touch b\nwriting b\n"
    )
    assert Runner(chain, tmp_path, touch).run() == Outcome()


def test_a_changed_command_is_done_again_with_what_depends_on_it(
    chain: Plan, touch: Main, tmp_path: Path
) -> None:
    Runner(chain, tmp_path, touch).run()
    changed = [replace(s, argv=(*s.argv, "more")) if s.name == "b" else s for s in chain]
    assert names(remaining_steps(Plan("changed", tuple(changed)), tmp_path)) == ["b", "c"]


def test_a_lost_output_or_a_newer_input_is_done_again(
    chain: Plan, touch: Main, tmp_path: Path
) -> None:
    Runner(chain, tmp_path, touch).run()
    (tmp_path / "b").unlink()
    assert names(remaining_steps(chain, tmp_path)) == ["b", "c"]
    Runner(chain, tmp_path, touch).run()
    table = tmp_path / "cohort.csv"
    table.write_text("new labels")
    reading = Plan("reading", tuple(replace(step, inputs=(str(table),)) for step in chain))
    assert names(remaining_steps(reading, tmp_path)) == ["a", "b", "c", "d"]


def test_files_copied_anew_repeat_nothing_and_other_contents_do(
    chain: Plan, touch: Main, tmp_path: Path
) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("labels")
    plan = Plan("reading", tuple(replace(step, inputs=(str(table),)) for step in chain))
    Runner(plan, tmp_path / "study", touch).run()
    # as a copy has them: new times, in any order
    markers = sorted((tmp_path / "study" / "done").iterdir(), reverse=True)
    for number, path in enumerate([*markers, table]):
        os.utime(path, (2e9 + number, 2e9 + number))
    assert remaining_steps(plan, tmp_path / "study") == []
    for time in (2.1e9, 1e9):  # edited, and an older table put back
        table.write_text("other labels")
        os.utime(table, (time, time))
        assert names(remaining_steps(plan, tmp_path / "study")) == ["a", "b", "c", "d"]
    table.write_text("labels")
    assert remaining_steps(plan, tmp_path / "study") == []
    table.unlink()  # of a study looked at where its data are not: nothing to repeat
    assert remaining_steps(plan, tmp_path / "study") == []


def test_a_step_killed_after_its_need_was_renewed_is_done_again(
    chain: Plan, touch: Main, tmp_path: Path
) -> None:
    Runner(chain, tmp_path, touch).run()
    (tmp_path / "a").unlink()

    class Killed(BaseException):
        """Nothing catches it, as nothing catches a kill."""

    def kill() -> int:
        raise Killed

    with pytest.raises(Killed):
        Runner(chain, tmp_path, failing(touch, "b", kill)).run()
    assert names(remaining_steps(chain, tmp_path)) == ["b", "c"]
    assert Runner(chain, tmp_path, touch).run().done == ["b", "c"]


def test_repeating_an_extraction_renews_nothing(chain: Plan, touch: Main, tmp_path: Path) -> None:
    plan = Plan("store", tuple(replace(s, kind="extract") if s.name == "a" else s for s in chain))
    Runner(plan, tmp_path, touch).run()
    more = [replace(s, argv=(*s.argv, "more")) if s.name == "a" else s for s in plan]
    again = Plan("more", tuple(more))
    assert Runner(again, tmp_path, touch).run().done == ["a"]
    assert remaining_steps(again, tmp_path) == []


def test_a_failure_stops_only_what_needs_it(chain: Plan, touch: Main, tmp_path: Path) -> None:
    outcome = Runner(chain, tmp_path, failing(touch, "b", lambda: 1)).run()
    assert outcome == Outcome(done=["a", "d"], failed=["b"], blocked=["c"])
    assert states(tmp_path, chain) == {"a": "done", "b": "failed", "c": "waiting", "d": "done"}
    assert Runner(chain, tmp_path, touch).run() == Outcome(done=["b", "c"])


def break_down() -> int:
    raise RuntimeError("out of memory")


def say_and_leave() -> int:
    sys.stderr.write("error: no setting --x\n")
    sys.exit(2)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (break_down, "error: RuntimeError: out of memory"),
        (say_and_leave, "error: no setting --x"),
        (lambda: 0, "it ended well but did not write"),
    ],
)
def test_however_a_step_fails_its_last_words_are_kept(
    chain: Plan, touch: Main, tmp_path: Path, how: Callable[[], int], error: str
) -> None:
    assert Runner(chain, tmp_path, failing(touch, "b", how)).run().failed == ["b"]
    assert read_states(tmp_path, chain)["b"].error.startswith(error)


def test_a_report_runs_over_what_is_there(chain: Plan, touch: Main, tmp_path: Path) -> None:
    report = Step("report", "report", ("touch", "report"), ("c", "d"))
    plan = Plan("reported", (*chain, report))
    outcome = Runner(plan, tmp_path, failing(touch, "b", lambda: 1)).run()
    assert outcome.done == ["a", "d", "report"]


def test_lost_slides_count_as_done_only_where_that_was_said(
    chain: Plan, touch: Main, tmp_path: Path
) -> None:
    def lose(argv: Sequence[str]) -> int:
        touch(argv)
        return 3

    assert Runner(chain, tmp_path, lose).run().failed == ["a", "d"]
    assert Runner(chain, tmp_path, lose, {"fit": 3}).run().done == ["a", "b", "c", "d"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_study_even_if_the_step_swallows_it(
    chain: Plan, touch: Main, tmp_path: Path, number: signal.Signals
) -> None:
    def interrupted() -> int:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            # What Lightning does to a Trainer that was interrupted.
            sys.exit(1)
        return 0

    before = signal.getsignal(number)
    outcome = Runner(chain, tmp_path, failing(touch, "b", interrupted)).run()
    assert outcome == Outcome(done=["a"], interrupted=True)
    assert states(tmp_path, chain)["b"] == "waiting"
    assert signal.getsignal(number) is before
    assert Runner(chain, tmp_path, touch).run() == Outcome(done=["b", "c", "d"])


def test_streams_kept_by_an_earlier_step_write_into_the_present_log(
    chain: Plan, touch: Main, tmp_path: Path
) -> None:
    kept = []

    def main(argv: Sequence[str]) -> int:
        kept.append(sys.stderr)
        kept[0].write(f"handler of {argv[1]}\n")
        return touch(argv)

    Runner(chain, tmp_path, main).run()
    assert "handler of c" in (tmp_path / "logs" / "c.log").read_text()
    assert "handler of c" not in (tmp_path / "logs" / "a.log").read_text()


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"0" * 32 + b"\nsoon\n"])
def test_a_damaged_marker_means_that_the_step_runs_again(
    chain: Plan, touch: Main, tmp_path: Path, content: bytes
) -> None:
    Runner(chain, tmp_path, touch).run()
    marker(tmp_path, chain["d"]).write_bytes(content)
    assert Runner(chain, tmp_path, touch).run() == Outcome(done=["d"])
    assert set(states(tmp_path, chain).values()) == {"done"}


def test_a_step_that_another_process_runs_is_left_to_it(
    chain: Plan, touch: Main, tmp_path: Path
) -> None:
    with running(tmp_path, chain["b"]):
        assert states(tmp_path, chain)["b"] == "running"
        outcome = Runner(chain, tmp_path, touch).run()
    assert outcome == Outcome(done=["a", "d"], blocked=["b", "c"])
    assert states(tmp_path, chain)["b"] == "waiting"
    assert Runner(chain, tmp_path, touch).run() == Outcome(done=["b", "c"])


def test_a_part_of_the_plan_waits_for_what_others_have_not_done(
    chain: Plan, touch: Main, tmp_path: Path
) -> None:
    outcome = Runner(chain, tmp_path, touch, only={"b", "c", "d"}).run()
    assert outcome == Outcome(done=["d"], blocked=["b", "c"])
    assert Runner(chain, tmp_path, touch, only={"a"}).run().done == ["a"]
    assert Runner(chain, tmp_path, touch, only={"b", "c", "d"}).run().done == ["b", "c"]


def test_a_stream_outlives_its_target(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as target:
        stream = RedirectableStream(target)
        stream.write("said")
    stream.flush()
    stream.close()
    assert (tmp_path / "log").read_text() == "said"
