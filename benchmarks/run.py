"""Run the benchmarks and print their tables as Markdown."""

import argparse
import importlib
import importlib.metadata
import os
import platform
from datetime import date
from pathlib import Path

PARTS = (
    "bptt",
    "deep",
    "delays",
    "dendrites",
    "eprop",
    "forward",
    "growth",
    "memory",
    "networks",
    "prospective",
    "sparse",
    "starts",
    "state",
)
PACKAGES = (
    "localplast",
    "numpy",
    "torch",
    "brian2",
    "nest-simulator",
    "snntorch",
    "norse",
    "spikingjelly",
    "spyx",
    "jax",
    "braintrace",
    "dendrify",
)


def machine():
    """One line on the machine, one on the packages."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    load = ", ".join(f"{number:.2f}" for number in os.getloadavg())
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    return (
        f"{date.today()}, {os.cpu_count()} × {cpu}, Python {platform.python_version()}; load before the run: {load}\n\n"
        f"{', '.join(versions)}\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter trials and one round: does everything run?")
    parser.add_argument("--rounds", type=int, help="how often every case runs, in turn (default: 3, quick: 1)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas: %(default)s")
    parser.add_argument("--out", type=Path, help="also write the Markdown here")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    count = arguments.rounds or (1 if arguments.quick else 3)
    sections = [machine()]
    for part in parts:
        sections.append(importlib.import_module(part).main(arguments.quick, count))
        print(sections[-1], flush=True)
        if arguments.out:  # after every part: what was measured stays if a later part fails
            arguments.out.write_text("\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
