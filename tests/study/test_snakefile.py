"""The Snakefile holds the plan: same commands, same order, same markers.

Snakemake itself is not installed here; docs/decisions.md tells how it was run by hand.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from histotransfer_pl.runs.state import marker
from histotransfer_pl.runs.steps import Plan, Step
from histotransfer_pl.study.plan import make_plan
from histotransfer_pl.study.progress import is_done
from histotransfer_pl.study.snakefile import rule_name, snakefile
from tests.study.conftest import make_config


def rules(text: str) -> dict[str, str]:
    """Text of every rule by its name."""
    parts = re.split(r"^rule (\w+):\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def shell(rule: str) -> str:
    """The command of a rule as Snakemake would give it to the shell, without its placeholders."""
    text: str = json.loads(rule.split("shell:\n", 1)[1].strip())
    return text.replace("{log:q}", "LOG").replace("{output:q}", "OUT").format()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(make_config(tmp_path, variants=["frozen", "topk"]))


def test_every_step_is_a_rule_with_its_own_command(plan: Plan, tmp_path: Path) -> None:
    found = rules(snakefile(plan, tmp_path / "study", {"WANDB_MODE": "disabled"}))
    assert set(found) == {"all", *(rule_name(step) for step in plan)}
    for step in plan:
        words = shlex.split(shell(found[rule_name(step)]))
        start = words.index("python")
        end = words.index(">")
        assert words[start:end] == ["python", "-m", "histotransfer_pl", *step.argv]
        assert "WANDB_MODE=disabled" in words[:start]
        assert ("OMP_NUM_THREADS=1" in words[:start]) == (step.threads == 1)


def test_rules_wait_for_the_markers_of_what_they_need(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    found = rules(snakefile(plan, folder, {}))
    for step in plan:
        before = found[rule_name(step)].split("    output:")[0]
        for need in step.needs:
            name = json.dumps(str(marker(folder, plan[need])))
            assert name in before
            additive = plan[need].kind in ("extract", "extract_tuned")
            assert (f"ancient({name})" in before) == additive
        assert str(marker(folder, step)) in found["all"]


def test_rules_that_follow_each_other_are_one_group_and_say_what_they_ask(
    plan: Plan, tmp_path: Path
) -> None:
    asked = {
        "all": {"mem_gb": 2, "sbatch": {"account": "a lab"}},
        "extract": {"gpus": 1, "partition": "gpu", "minutes": 30, "cpus": 8},
    }
    text = snakefile(plan, tmp_path / "study", {}, {}, asked)
    found = rules(text)

    def part(step: Step, name: str) -> list[str]:
        after = found[rule_name(step)].split(f"    {name}:\n", 1)[1]
        return [line.strip() for line in after.split("    shell:")[0].splitlines()]

    extract = plan.of_kind("extract")[0]
    assert part(extract, "resources") == [
        "runtime=30,", "mem_mb=2048,", 'slurm_partition="gpu",', "gpu=1,",
        "slurm_extra=\"'--account=a lab'\",",
    ]  # fmt: skip
    assert "    threads: 8\n" in found[rule_name(extract)]
    fit = plan.of_kind("fit")[0]
    assert part(fit, "resources")[:2] == ["runtime=240,", "mem_mb=2048,"]
    for step in plan.of_kind("test"):
        assert part(step, "group")[0] == part(plan[step.needs[0]], "group")[0]
    assert part(fit, "group")[0] != part(extract, "group")[0]
    assert "--group-components fit_1=20" in text


def test_a_step_that_the_shell_ran_is_done_here_too(tmp_path: Path) -> None:
    step = Step("one-step", "fit", ("--version",), threads=1)
    plan = Plan("one", (step,))
    command = placed(shell(rules(snakefile(plan, tmp_path, {}))[rule_name(step)]), tmp_path, step)
    command = command.replace("python -m", f"{sys.executable} -m")
    assert not is_done(plan, step, tmp_path)
    subprocess.run(["sh", "-c", command], check=True)
    assert is_done(plan, step, tmp_path)


def placed(command: str, folder: Path, step: Step) -> str:
    """A command with the files that Snakemake would put in, quoted as `:q` says."""
    out = marker(folder, step)
    out.parent.mkdir(parents=True)
    log = shlex.quote(str(folder / "log"))
    return command.replace("OUT", shlex.quote(str(out))).replace("LOG", log)


@pytest.mark.parametrize(
    ("kind", "code", "done"),
    [
        ("extract", 0, True),
        ("extract", 3, True),
        ("extract_tuned", 3, True),
        ("extract", 1, False),
        ("fit", 3, False),
    ],
)
def test_the_shell_accepts_lost_slides_where_that_was_said(
    tmp_path: Path, kind: str, code: int, done: bool
) -> None:
    step = Step("one", kind, ("x",))
    plan = Plan("one", (step,))
    folder = tmp_path / "a study"
    accepted = {"extract": 3, "extract_tuned": 3}
    text = shell(rules(snakefile(plan, folder, {}, accepted))[rule_name(step)])
    command = placed(text, folder, step)
    command = command.replace(step.command, f"sh -c 'exit {code}'")
    result = subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=False)
    assert (result.returncode == 0) == done
    assert is_done(plan, step, folder) == done


def test_names_of_rules_are_identifiers_and_stay_apart() -> None:
    names = [rule_name(Step(name, "fit", ())) for name in ("a-b", "a_b", "a.b", "a-b-c")]
    assert len(set(names)) == 4
    assert all(name.isidentifier() for name in names)
