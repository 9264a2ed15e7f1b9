"""What an extraction takes on a cluster, from its inputs: `python -m benchmarks.cluster_cost`."""

from dataclasses import dataclass

from jsonargparse import ArgumentParser

SLIDES = (10_000, 1_000_000)
_FIRST, _ARRAY, _FURTHER = 6, 14, 12
"""Requests of a slide with its coordinates, of its first array, of each further one; counted by
tests/store/test_objects.py::test_requests_of_a_slide_are_few."""


@dataclass(frozen=True)
class Inputs:
    """What you must put in; the values are examples, and no offer of anyone.

    Attributes:
        patches: Patches of a slide.
        widths: Features of each depth that is stored in full.
        rate: Patches per second of one GPU, as `extract` prints it.
        start_s: Seconds that a process takes to start.
        tasks: Processes, each with a GPU.
        gpu_hour: Price of a GPU for an hour, in dollars.
        gb_month: Price of a gigabyte for a month.
        thousand_puts: Price of a thousand requests that write.
        thousand_gets: Price of a thousand requests that read.
        epochs: Passes over the store that read each bag, by 2 requests.
    """

    patches: int = 10_000
    widths: tuple[int, ...] = (512,)
    rate: float = 2_000
    start_s: float = 10
    tasks: int = 16
    gpu_hour: float = 3.0
    gb_month: float = 0.023
    thousand_puts: float = 0.005
    thousand_gets: float = 0.0004
    epochs: int = 20


def cost(slides: int, inputs: Inputs) -> dict[str, float]:
    """Hours, bytes, requests and dollars of so many slides."""
    gpu_hours = (slides * inputs.patches / inputs.rate + inputs.tasks * inputs.start_s) / 3600
    size = slides * inputs.patches * (2 * sum(inputs.widths) + 8)
    puts = slides * (_FIRST + _ARRAY + _FURTHER * (len(inputs.widths) - 1))
    gets = slides * 2 * inputs.epochs
    return {
        "GPU hours": gpu_hours,
        "hours on all": gpu_hours / inputs.tasks,
        "TB stored": size / 1e12,
        "M requests to write": puts / 1e6,
        "M requests to read": gets / 1e6,
        "$ GPUs": gpu_hours * inputs.gpu_hour,
        "$ storage per month": size / 1e9 * inputs.gb_month,
        "$ requests": puts / 1e3 * inputs.thousand_puts + gets / 1e3 * inputs.thousand_gets,
    }


def main() -> None:
    """Print the table for 10,000 and 1,000,000 slides."""
    parser = ArgumentParser(prog="python -m benchmarks.cluster_cost", description=cost.__doc__)
    parser.add_class_arguments(Inputs, as_group=False)
    inputs = Inputs(**parser.parse_args().as_dict())
    columns = [cost(slides, inputs) for slides in SLIDES]
    print(f"| | {' | '.join(f'{slides:,} slides' for slides in SLIDES)} |\n|---|---|---|")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(f'{column[name]:,.3g}' for column in columns)} |")


if __name__ == "__main__":
    main()
