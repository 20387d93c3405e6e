"""Shared helpers of the benchmarks: one process per case and round, medians, Markdown tables."""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["case_main", "exponent", "measure", "memory", "reset_peak", "rounds", "span", "table"]

RESULT = "result: "


def confine(threads):
    """Keep this process on as many processors as it has threads: not every library lets itself be asked."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)


def memory(what="VmRSS", process="self"):
    """Resident memory in MB now (``VmRSS``) or at its peak (``VmHWM``); Linux only."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def reset_peak():
    """Let the peak start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def cpu_seconds():
    """CPU time of this process and of the programs it has run."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(step, *, repeats, warmup=1):
    """Call ``step`` again and again; returns wall and CPU seconds of each call, and by how many MB the peak grew.

    The growth counts from before the first call: what is kept from step to step belongs to it.
    """
    reset_peak()
    before = memory()
    for _ in range(warmup):
        step()
    wall, cpu = [], []
    for _ in range(repeats):
        clocks = time.perf_counter(), cpu_seconds()
        step()
        wall.append(time.perf_counter() - clocks[0])
        cpu.append(cpu_seconds() - clocks[1])
    return {"wall": wall, "cpu": cpu, "growth": memory("VmHWM") - before}


def case_main(run):
    """The child's side: read the job from the command line, run it, print what it found."""
    job = json.loads(sys.argv[1])
    confine(job.get("threads", 1))
    print(RESULT + json.dumps(run(**job)))


def child(script, job, timeout):
    """Run one job in a process of its own; returns what it found, or ``{"error": ...}``."""
    command = [sys.executable, str(script), json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {timeout} s"}
    for line in done.stdout.splitlines():
        if line.startswith(RESULT):
            return json.loads(line.removeprefix(RESULT))
    return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:160]}


def rounds(script, jobs, count, *, timeout=900):
    """Every job once per round, in turn, so that a drift of the machine meets all of them.

    Returns
    -------
    list of dict, one per job
        ``error``, or lists pooled over the rounds; numbers become lists, one entry per round.
    """
    pooled = [{} for _ in jobs]
    for number in range(count):
        for job, pool in zip(jobs, pooled, strict=True):
            if "error" in pool:
                continue
            found = child(script, job, timeout)
            print(f"[{Path(script).stem} {number + 1}/{count}] {job} {brief(found)}", file=sys.stderr, flush=True)
            if "error" in found:
                pool["error"] = found["error"]
                continue
            for key, value in found.items():
                pool.setdefault(key, []).extend(value if isinstance(value, list) else [value])
    return pooled


def brief(found):
    if "error" in found:
        return found["error"]
    return " ".join(f"{k}={statistics.median(v) if isinstance(v, list) else v:.4g}" for k, v in found.items())


def span(values, scale=1.0):
    """``median [min-max]``, three digits."""
    numbers = [digits(scale * f(values)) for f in (statistics.median, min, max)]
    return f"{numbers[0]} [{numbers[1]}-{numbers[2]}]"


def digits(number):
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def exponent(lengths, seconds):
    """Least-squares slope of log seconds over log length: 1 is linear."""
    return statistics.linear_regression(*[[math.log(v) for v in part] for part in (lengths, seconds)]).slope


def table(title, header, rows):
    """A Markdown table under a heading."""
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows), ""])
