#!/usr/bin/env python3
"""Counts what one message takes: instructions and atomic read-modify-writes, by callgrind, and
system calls, by strace, on each side. See docs/hot-path.md.

    cargo build --release --manifest-path bench/Cargo.toml --example hot
    bench/hot-path.py bench/target/release/examples/hot

Each kind of message is sent N and then 3 N times, and what is printed is the difference for each
message, so that what happens once is not in it. On two cores one side at a time runs under the
tool, so that it never waits for the other. On one core both do: if only one were slow, the other
would be done before it looks, and it would never sleep. Needs Linux, x86-64, valgrind, strace, objdump.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time

PROGRAM = sys.argv[1]
FEW, MANY = 5_000, 15_000


def locked():
    """The addresses of the program's instructions that lock a line."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", PROGRAM],
                          capture_output=True, text=True, check=True).stdout
    # An exchange with memory locks without saying so.
    found = re.findall(r"^ *([0-9a-f]+):\s+(?:lock |xchg .*\()", text, re.M)
    return {int(address, 16) for address in found}


LOCKED = locked()


def callgrind_counts(file):
    """Instructions, and those that lock, in a profile with `--dump-instr=yes`."""
    instructions = locks = 0
    ours = skip = False
    for line in open(file):
        if line.startswith("ob="):
            ours = os.path.basename(line.strip()) == os.path.basename(PROGRAM)
        elif line.startswith("calls="):
            skip = True  # The next line is what the callee has cost.
        elif line.startswith("0x"):
            if skip:
                skip = False
                continue
            address, _, cost = line.split()[:3]
            instructions += int(cost)
            if ours and int(address, 16) in LOCKED:
                locks += int(cost)
    return instructions, locks


def strace_count(file):
    calls = 0
    for line in open(file):
        if line.rstrip().endswith("total"):
            calls = int(line.split()[3])
    return [calls]


def under(tool, output):
    """The tool's command line."""
    if tool == "strace":
        return ["strace", "-f", "-c", "-o", output]
    return ["valgrind", "-q", "--tool=callgrind", "--dump-instr=yes", "--compress-pos=no",
            "--compress-strings=no", f"--callgrind-out-file={output}"]


def stop(process, is_traced):
    """Ends a service; strace itself does not pass a signal on."""
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    pid = int(open(children).read().split()[0]) if is_traced else process.pid
    os.kill(pid, signal.SIGTERM)
    process.wait()


def run(kind, messages, sides, tool, one_core):
    """What the tool has counted on the sides that run under it."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as folder:
        output = {side: os.path.join(folder, f".{side}") for side in sides}

        def command(side, core, *arguments):
            prefix = under(tool, output[side]) if side in sides else []
            return ["taskset", "-c", str(core), *prefix, PROGRAM, *arguments]

        service = subprocess.Popen(command("service", 0, "serve", folder), **quiet)
        while not os.path.exists(os.path.join(folder, "hot")):
            time.sleep(0.05)
        core = 0 if one_core else 1
        client = command("client", core, kind, folder, str(messages))
        subprocess.run(client, check=True, **quiet)
        stop(service, tool == "strace" and "service" in sides)
        count = strace_count if tool == "strace" else callgrind_counts
        return {side: count(output[side]) for side in sides}


def per_message(kind, tool, one_core):
    """For each side what the tool counts, for each message."""
    counts = {}
    for sides in [["client", "service"]] if one_core else [["client"], ["service"]]:
        few, many = (run(kind, n, sides, tool, one_core) for n in (FEW, MANY))
        for side in sides:
            counts[side] = [(b - a) / (MANY - FEW) for a, b in zip(few[side], many[side])]
    return counts


print("| message | side | instructions | read-modify-writes | system calls |")
print("|---|---|---:|---:|---:|")
for name, kind, one_core in [("two-way, two cores", "calls", False),
                             ("two-way, one core", "calls", True),
                             ("one-way, two cores", "one-way", False)]:
    counts, traced = (per_message(kind, tool, one_core) for tool in ("callgrind", "strace"))
    for side in ["client", "service"]:
        (instructions, locks), (calls,) = counts[side], traced[side]
        print(f"| {name} | {side} | {instructions:.0f} | {locks:.1f} | {calls:.1f} |", flush=True)
