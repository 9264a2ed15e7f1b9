"""The plan as a Snakefile, for more than one machine.

Snakemake schedules, we plan: every step becomes a rule with the same command. Rules hand on the
markers `done/<step>` of the study's folder, which hold the digest of the command, so that a study
that Snakemake ran is finished for this program too, and the other way round. Rules of one `group`
that follow each other are one job of a cluster; `--group-components` puts more of them together.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from histotransfer_pl.runs.state import marker
from histotransfer_pl.runs.steps import ADDING, Plan, Step
from histotransfer_pl.study.batches import Chain, make_chains
from histotransfer_pl.study.resources import Resources

_FITS_PER_JOB = 20


def snakefile(
    plan: Plan,
    folder: Path,
    environment: dict[str, str],
    accepted: Mapping[str, int] | None = None,
    resources: Mapping[str, Any] | None = None,
) -> str:
    """The text of a Snakefile.

    Args:
        plan: The steps.
        folder: Folder of the study.
        environment: Variables of every command.
        accepted: Exit codes of a kind of step that count as done, beside 0.
        resources: What kinds of steps ask for.
    """
    chains = make_chains(plan, plan.steps, resources or {})
    made = {output for step in plan for output in step.outputs}
    markers = [str(marker(folder, step)) for step in plan]
    blocks = [
        "# snakemake --snakefile THIS_FILE --cores 4\n"
        "# snakemake --snakefile THIS_FILE --executor slurm --jobs 50 "
        f"--group-components {_components(chains.values())}\n"
        f"# {plan.name}: the plan of a histotransfer_pl study; run it from {Path.cwd()}.\n",
        f"rule all:\n    input:\n{_lines(markers)}",
        *(
            _rule(
                *(plan, step, folder, chains[step.name], made),
                _shell(step, environment, accepted or {}),
            )
            for step in plan
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def rule_name(step: Step) -> str:
    """An identifier for a step; different steps keep different names."""
    return re.sub(r"\W", lambda found: f"_{ord(found[0]):x}_", step.name.replace("-", "__"))


def _rule(plan: Plan, step: Step, folder: Path, chain: Chain, made: set[str], shell: str) -> str:
    needs = []
    for need in step.needs:
        text = json.dumps(str(marker(folder, plan[need])))
        # Repeating an extraction changes no features, so nothing behind it has to be repeated.
        needs.append(f"ancient({text})" if plan[need].kind in ADDING else text)
    needs += [json.dumps(name) for name in step.inputs if name not in made]
    own = str(marker(folder, step))
    lines = [f"rule {rule_name(step)}:"]
    if needs:
        lines.append("    input:\n" + _lines(needs, quote=False))
    lines += [f"    output:\n{_lines([own])}", f"    log:\n{_lines([_log(folder, step)])}"]
    lines.append(f"    group:\n        {json.dumps(chain.group)}")
    if chain.resources.cpus is not None:
        lines.append(f"    threads: {chain.resources.cpus}")
    lines.append(f"    resources:\n{_resources(chain.resources)}")
    lines.append(f"    shell:\n        {json.dumps(shell)}")
    return "\n".join(lines)


def _resources(asked: Resources) -> str:
    """As Snakemake's executors call them."""
    options = [f"--{name}={value}" for name, value in asked.sbatch.items()]
    found = {
        "runtime": asked.minutes,
        "mem_mb": None if asked.mem_gb is None else round(asked.mem_gb * 1024),
        "slurm_partition": asked.partition,
        "gpu": asked.gpus,
        "slurm_extra": shlex.join(options) or None,
    }
    given = {name: value for name, value in found.items() if value is not None}
    return "\n".join(f"        {name}={json.dumps(value)}," for name, value in given.items())


def _components(chains: Iterable[Chain]) -> str:
    """The groups of fits, which are many and short, a few to a job."""
    groups = {chain.group for chain in chains if chain.steps[0].kind == "fit"}
    return " ".join(f"{group}={_FITS_PER_JOB}" for group in sorted(groups))


def _shell(step: Step, environment: dict[str, str], accepted: Mapping[str, int]) -> str:
    variables = dict(environment)
    if step.threads is not None:
        variables["OMP_NUM_THREADS"] = str(step.threads)
    words = [f"{name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    command = " ".join([*words, step.command])
    # Braces are Snakemake's own placeholders, and those of JSON settings are not.
    escaped = command.replace("{", "{{").replace("}", "}}")
    run = f"{escaped} > {{log:q}} 2>&1"
    if step.kind in accepted:
        run = f"( {run} || [ $? -eq {accepted[step.kind]} ] )"
    return f"{run} && echo {step.digest} > {{output:q}}"


def _log(folder: Path, step: Step) -> str:
    return str(folder / "logs" / f"{step.name}.log")


def _lines(values: list[str], *, quote: bool = True) -> str:
    return "\n".join(f"        {json.dumps(value) if quote else value}," for value in values)
