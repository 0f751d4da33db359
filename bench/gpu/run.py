"""Checks and measures the CUDA backend on a machine with an NVIDIA GPU.

Phases run one after another: first what is right, then the headline speeds, then why they are what they are,
then the rest. Each has a time limit of its own and needs none but the build: what hangs or fails loses its own
numbers and nothing else. A phase that no longer fits into the budget is skipped and says so. A failing case is
repeated at once: alone, under compute-sanitizer, without graphs, without dependent launch, synchronised.

--out gets at most six files, and is whole after every phase: result.json (phases, numbers, failing cases),
logs.tgz, ncu.txt, smi.csv. `npm run bench -- gpu --add result.json` makes docs/gpu-results.md of it.

Programs that were built elsewhere are used when they run here (--build makes such a folder, for carrying to a
machine that has a GPU); else they are built here first, with nvcc and cmake.
"""
import argparse
import ctypes
import dataclasses
import datetime
import functools
import glob
import importlib.util
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = ["gpu_bench", "gpu_ops_test", "gpu_model_test", "golden_test", "libnemotron_cuda.so"]
# Where a build tree has them: of a GPU, and of the emulation.
IN_TREE = {
    False: ["cuda/gpu_bench", "cuda/gpu_ops_test", "cuda/gpu_model_test", "test/golden_test", "libnemotron_cuda.so"],
    True: ["test/emu/emulated_gpu_bench", "test/emu/emulated_ops_test", "test/cuda/emulated_model_test",
           "test/golden_test", "test/emu/libnemotron_cuda_emulated_library.so"],
}
TARGETS = {
    False: ["gpu_bench", "gpu_ops_test", "gpu_model_test", "golden_test", "nemotron_cuda"],
    True: ["emulated_gpu_bench", "emulated_ops_test", "emulated_model_test", "golden_test",
           "nemotron_cuda_emulated_library", "fake_cublaslt"],
}
# How a failing case is repeated: what it is called, its environment, whether the sanitizer watches.
REPEATS = [
    ("alone", {}, False),
    ("memcheck", {}, True),
    ("NEMOTRON_CUDA_GRAPHS=0", {"NEMOTRON_CUDA_GRAPHS": "0"}, False),
    ("NEMOTRON_CUDA_PDL=0", {"NEMOTRON_CUDA_PDL": "0"}, False),
    ("NEMOTRON_CUDA_SYNC=1", {"NEMOTRON_CUDA_SYNC": "1"}, False),
]
REPEAT_SECONDS, MEMCHECK_SECONDS, ALL_REPEATS_SECONDS = 20, 60, 150
# Cases for compute-sanitizer: products, the MLP, the norm, the head, sampling, attention. The first of each.
SANITIZED = [r"gemm 17x80x96 BF16$", r"mlp_input BF16 34x40$", r"norm after residual BF16 19x90$", r"tied BF16$",
             r"sample vocab 33$", r"(?<!wgmma )attention .*d64 b\d+ .*prompts$"]
SANITIZED_WGMMA = [r"wgmma attention .*d64 b\d+ .*prompts$", r"wgmma products gemm (17|33)x80x96 "]
SANITIZED_STEPS = [r"^model bf16$", r"^model fp8 weights and cache$"]
NCU_KERNELS = "regex:^(gemm_decode|gemm_decode_wide|gemm_prompt|attention_decode|attention_prompt)_kernel"
NCU_SECTIONS = ["SpeedOfLight", "MemoryWorkloadAnalysis", "MemoryWorkloadAnalysis_Tables", "Occupancy",
                "LaunchStats", "WarpStateStats"]


def stop(text):
    sys.exit(f"bench/gpu.sh: {text}")


def output(command, seconds=20, **more):
    """What a command prints, or None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, **more)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def find_tool(name, *more):
    for path in [shutil.which(name), *more]:
        for found in sorted(glob.glob(path)) if path else []:
            if os.access(found, os.X_OK):
                return found
    return None


def find_nvcc():
    return find_tool("nvcc", os.environ.get("CUDACXX"), os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin/nvcc"),
                     "/usr/local/cuda/bin/nvcc")


def find_wheel(*patterns):
    """A library of a Python environment, where the toolkit has none."""
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    found = [f for folder in folders for p in patterns for f in glob.glob(os.path.join(folder, p))]
    return sorted(found)[-1] if found else None


def commit_of(folder):
    said = output(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"])
    if said:
        return said.strip()
    try:
        with open(os.path.join(folder, "commit")) as file:
            return file.read().strip()
    except OSError:
        return ""


def end_with_parent():
    """The child goes when this program does, however it goes."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def write_whole(path, text):
    """All of it or nothing: a reader never sees half a file."""
    part = os.path.join(os.path.dirname(path), "unfinished-" + os.path.basename(path))
    with open(part, "w") as file:
        file.write(text)
    os.replace(part, path)


# --- building ---


def build_commands(folder, dry, architectures):
    """The commands that fill `folder` with programs; the tree they are made in lies beside it."""
    tree = folder + "-tree"
    static = "-static-libstdc++ -static-libgcc"
    configure = ["cmake", "-S", ROOT, "-B", tree, "-DNEMOTRON_TESTS=ON", f"-DCMAKE_EXE_LINKER_FLAGS={static}",
                 f"-DCMAKE_SHARED_LINKER_FLAGS={static}", f"-DCMAKE_MODULE_LINKER_FLAGS={static}"]
    ninja = shutil.which("ninja")
    if ninja and not os.path.exists(os.path.join(tree, "CMakeCache.txt")):
        configure += ["-G", "Ninja"]
    configure += ["-DNEMOTRON_CUDA=OFF"] if dry else ["-DNEMOTRON_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"]
    # One that does not build takes none of the others along.
    keep_going = ["-k", "0"] if os.path.exists(os.path.join(tree, "build.ninja")) or ninja else ["-k"]
    build = ["cmake", "--build", tree, "--parallel", str(os.cpu_count()), "--target", *TARGETS[dry], "--", *keep_going]
    return [configure, build]


def collect(folder, dry):
    os.makedirs(folder, exist_ok=True)
    for name, path in zip(PROGRAMS, IN_TREE[dry]):
        built = os.path.join(folder + "-tree", path)
        if os.path.exists(built):
            shutil.copy2(built, os.path.join(folder, name))
    write_whole(os.path.join(folder, "commit"), commit_of(folder) + "\n")


def build_folder(folder, dry, architectures):
    for command in build_commands(folder, dry, architectures):
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            stop(f"{' '.join(command[:2])} fails")
    collect(folder, dry)
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{folder}: {', '.join(sorted(os.listdir(folder)))}; {size / (1 << 20):.1f} MiB")


# --- phases ---


@dataclasses.dataclass
class Phase:
    name: str
    takes: float  # seconds it usually takes: not begun with less left
    limit: float  # seconds it may take at most
    program: str = ""
    command: list = dataclasses.field(default_factory=list)
    env: dict = dataclasses.field(default_factory=dict)
    tests: bool = False  # prints cases as test/check.h does
    prefix: list = dataclasses.field(default_factory=list)  # a tool that runs the program
    tool: str = ""  # the tool's name, where it is not here
    skip: str = ""  # why not
    to: str = ""  # a file of --out that gets the output, beside the log


class Run:
    def __init__(self, options, machine):
        self.options = options
        self.begun = time.monotonic()
        self.deadline = self.begun + options.budget
        self.out = options.out
        self.folder = options.bin
        self.logs = tempfile.mkdtemp(prefix="nemotron-gpu-")
        self.repeats_left = ALL_REPEATS_SECONDS * options.pace
        self.stopped = ""
        self.children = []
        self.result = {"run": machine, "budget_s": options.budget, "seconds": 0, "ended": "", "phases": []}
        # Ranks of one GPU wait for each other: each one's stream has to have a queue of its own (eight by default).
        self.env = {**os.environ, "NEMOTRON_GOLDENS": os.path.join(ROOT, "test/golden"),
                    "CUDA_DEVICE_MAX_CONNECTIONS": "32"}
        os.makedirs(self.out, exist_ok=True)

    def program(self, name):
        return os.path.join(self.folder, name)

    def left(self):
        return self.deadline - time.monotonic()

    # --- what comes back ---

    def save(self):
        self.result["seconds"] = round(time.monotonic() - self.begun, 1)
        write_whole(os.path.join(self.out, "result.json"), json.dumps(self.result, indent=1) + "\n")

    def save_logs(self):
        part = os.path.join(self.out, "unfinished-logs.tgz")
        with tarfile.open(part, "w:gz", compresslevel=3) as tar:
            tar.add(self.logs, "logs")
        os.replace(part, os.path.join(self.out, "logs.tgz"))

    def clocks(self):
        try:
            with open(os.path.join(self.out, "smi.csv")) as file:
                last = file.read().strip().splitlines()[-1].split(", ")
            return {"clock": last[1], "temperature": last[4]}
        except (OSError, IndexError):
            return {}

    # --- one process ---

    def start(self, command, env, log):
        with open(log, "ab") as file:
            file.write((" ".join(f"{k}={v}" for k, v in env.items()) + " " + " ".join(command)[:2000] + "\n").encode())
            file.flush()
            child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
                                     env={**self.env, **env}, start_new_session=True, preexec_fn=end_with_parent)
        self.children.append(child)
        return child

    def end(self, child):
        """The child and what it started."""
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            pass  # a GPU that hangs may hold it for longer: the next phase goes on

    def wait(self, child, until):
        """How it ended: "" or what was wrong."""
        while child.poll() is None:
            if time.monotonic() > until:
                self.end(child)
                return "cut off"
            time.sleep(0.05)
        self.end(child)  # nothing of it goes on
        code = child.returncode
        return "" if code == 0 else f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"

    # --- phases side by side ---

    def run_group(self, phases):
        running = []
        for phase in phases:
            entry = {"name": phase.name, "status": "running", "reason": "", "limit_s": phase.limit * self.options.pace,
                     "at_s": round(time.monotonic() - self.begun, 1), "seconds": 0}
            self.result["phases"].append(entry)
            reason = self.why_not(phase)
            if reason:
                entry["status"], entry["reason"] = "skipped", reason
                print(f"== {phase.name}: skipped, {reason}", flush=True)
                continue
            log = os.path.join(self.logs, phase.name + ".log")
            lines = os.path.join(self.logs, phase.name + ".jsonl")
            command = [*phase.prefix, self.program(phase.program) if phase.program else phase.command[0],
                       *(phase.command if phase.program else phase.command[1:])]
            if phase.program == "gpu_bench" or phase.name == "torch":
                command += ["--json", lines]
            began = time.monotonic()
            limit = min(phase.limit * self.options.pace, self.left())
            print(f"== {phase.name} (at {began - self.begun:.0f} s, at most {limit:.0f} s)", flush=True)
            try:
                child = self.start(command, phase.env, log)
            except OSError as e:
                entry["status"], entry["reason"] = "failed", str(e)
                continue
            running.append((phase, entry, child, began, began + limit, log, lines))
        self.save()
        waiting = list(running)
        seen = {}
        while waiting:
            for item in list(waiting):
                phase, entry, child, began, until, log, lines = item
                entry["seconds"] = round(time.monotonic() - began, 1)
                over = time.monotonic() > until
                if child.poll() is None and not over:
                    size = os.path.getsize(lines) if os.path.exists(lines) else 0
                    if size != seen.get(lines, 0):  # numbers that are known are not lost with this program
                        seen[lines] = size
                        self.read_lines(entry, lines)
                        self.save()
                    continue
                waiting.remove(item)
                how = self.wait(child, 0 if over else until)
                self.finish(phase, entry, how, log, lines)
                self.save()
                self.save_logs()
            time.sleep(0.05)
        for phase, entry, *_ in running:
            if entry["status"] == "failed" and phase.name != "build":
                self.repeat(phase, entry)

    def why_not(self, phase):
        if self.stopped:
            return self.stopped
        if phase.skip:
            return phase.skip
        if phase.program and not os.path.exists(self.program(phase.program)):
            return f"{phase.program} was not built"
        needed = phase.takes * self.options.pace
        if self.left() < needed:
            return f"{max(self.left(), 0):.0f} s of the budget are left, it takes about {needed:.0f}"
        return ""

    def read_lines(self, entry, lines):
        if not os.path.exists(lines):
            return
        metrics, notes = [], []
        with open(lines) as file:
            for text in file:
                try:
                    line = json.loads(text)
                except ValueError:  # cut off with its program
                    continue
                kind = line.pop("kind", "")
                if kind == "measure":
                    metrics.append(line)
                elif kind == "note":
                    notes.append(line["text"])
                elif kind == "machine":
                    self.result["run"].update(line)
        entry.update({k: v for k, v in (("metrics", metrics), ("notes", notes)) if v})

    def read_cases(self, entry, log, how):
        """Counts and failing cases of a test program; the one it was in when it ended."""
        with open(log, errors="replace") as file:
            text = file.read().splitlines()
        failing = [line[len("FAILED "):] for line in text if line.startswith("FAILED ")]
        began = [line[len("RUNS "):] for line in text if line.startswith("RUNS ")]
        total = [line for line in text if line.endswith(" failed") and " passed, " in line]
        skipped = [line for line in text if line.startswith("skipped")]
        if skipped:
            entry["notes"] = entry.get("notes", []) + skipped
        if total:
            entry["passed"], entry["failed"] = int(total[-1].split()[0]), int(total[-1].split()[2])
            if entry["passed"] + entry["failed"] == 0:
                return "no case ran"
        elif began and (not failing or failing[-1] != began[-1]):
            failing.append(began[-1])  # it ended or hung there
            entry["passed"] = len(began) - len(failing)
        if failing:
            entry["failing"] = failing[:50]
            # What the first failing case said.
            at = text.index("RUNS " + failing[0]) if "RUNS " + failing[0] in text else 0
            entry["said"] = [line for line in text[at + 1:at + 13] if not line.startswith("RUNS ")]
        return how

    def finish(self, phase, entry, how, log, lines):
        if how == "cut off":
            how = f"cut off after {entry['seconds']:.0f} s"
        self.read_lines(entry, lines)
        if phase.tests:
            how = self.read_cases(entry, log, how)
        entry.update(self.clocks())
        entry["status"], entry["reason"] = ("failed", how) if how else ("ok", "")
        if phase.tool:
            entry["notes"] = entry.get("notes", []) + [f"without {phase.tool}: the emulation has none"]
        if phase.to:
            shutil.copyfile(log, os.path.join(self.out, phase.to))
        for m in entry.get("metrics", []):
            of = f"  {m['percent']:5.1f} % of the limit" if m.get("percent") else ""
            print(f"   {m['name']:44} {m['us']:11.1f} us {m['value']:10.1f} {m['unit']}{of}")
        for line in entry.get("notes", []) + entry.get("failing", [])[:8] + entry.get("said", []):
            print("   " + line[:160])
        if how and not phase.tests:
            with open(log, errors="replace") as file:
                print("".join("   " + line[:160] for line in file.readlines()[-8:]))
        counts = f", {entry['passed']} passed" if "passed" in entry else ""
        print(f"-- {phase.name}: {entry['status']}{' (' + how + ')' if how else ''}{counts}, {entry['seconds']:.0f} s", flush=True)

    # --- what a failure needs to be understood ---

    def repeat(self, phase, entry):
        if phase.prefix or not phase.program:
            return  # a tool's own run is its own evidence
        case = entry["failing"][0] if entry.get("failing") else " ".join(phase.command[:2])
        entry["repeated"] = {"case": case, "runs": []}
        for how, env, watched in REPEATS:
            run = {"how": how, "status": "skipped", "reason": "", "seconds": 0}
            entry["repeated"]["runs"].append(run)
            command = [self.program(phase.program)]
            command += ["--exact", "--tell", case] if phase.tests else phase.command
            if watched:
                if not phase.tests and "--tiny" not in command:
                    command.append("--tiny")
                    run["how"] += " --tiny"
                if self.options.sanitizer:
                    command = [self.options.sanitizer, "--tool", "memcheck", "--error-exitcode", "9", *command]
            limit = min((MEMCHECK_SECONDS if watched else REPEAT_SECONDS) * self.options.pace, self.repeats_left, self.left())
            if watched and not self.options.sanitizer:
                run["reason"] = "no compute-sanitizer"
            elif limit < self.options.pace:
                run["reason"] = "no time left"
            elif self.stopped:
                run["reason"] = self.stopped
            else:
                log = os.path.join(self.logs, f"{phase.name}-{how.replace('=', '-')}.log")
                began = time.monotonic()
                try:
                    ended = self.wait(self.start(command, {**phase.env, **env}, log), began + limit)
                except OSError as e:
                    ended = str(e)
                run["seconds"] = round(time.monotonic() - began, 1)
                self.repeats_left -= run["seconds"]
                run["status"], run["reason"] = ("failed", ended) if ended else ("ok", "")
            print(f"   {case}, {run['how']}: {run['status']}{' (' + run['reason'] + ')' if run['reason'] else ''}", flush=True)
            self.save()
        self.save_logs()

    # --- the build ---

    def build(self):
        """Uses the programs that are there when they run here, else makes them."""
        entry = {"name": "build", "status": "ok", "reason": "", "limit_s": 200 * self.options.pace, "at_s": 0, "seconds": 0}
        self.result["phases"].append(entry)
        self.save()
        began = time.monotonic()
        tell = self.tell_programs()
        if tell:
            print(f"== build ({tell})", flush=True)
            until = min(began + entry["limit_s"], self.deadline)
            for command in build_commands(self.folder, self.options.dry_run, self.options.architectures):
                try:
                    how = self.wait(self.start(command, {}, os.path.join(self.logs, "build.log")), until)
                except OSError as e:
                    how = str(e)
                if how:
                    entry["status"], entry["reason"] = "failed", f"{' '.join(command[:2])}: {how}"
                    print(output(["tail", "-n", "30", os.path.join(self.logs, "build.log")]) or "")
                    if command[1] == "-S":
                        break
            collect(self.folder, self.options.dry_run)
        self.result["run"]["programs"] = "built here" if tell else "brought along"
        entry["seconds"] = round(time.monotonic() - began, 1)
        print(f"-- build: {entry['status']}, programs {self.result['run']['programs']}, {entry['seconds']:.0f} s", flush=True)
        self.save()
        self.save_logs()

    def tell_programs(self):
        """Why the programs that are there will not do, or nothing."""
        for name in PROGRAMS:
            if not os.path.exists(self.program(name)):
                return f"no {name} in {self.options.bin}"
            if not name.endswith(".so") and not output([self.program(name), "--list"], 60 * self.options.pace, env=self.env):
                return f"{name} does not run here"
        return ""


def spread(names, most):
    """At most so many, from all over the list."""
    return names if len(names) <= most else [names[i * len(names) // most] for i in range(most)]


def family(name):
    for one in ("wgmma", "groups", "attention", "sample"):
        if re.search(rf"\b{one}\b", name):
            return one
    return "products"


def plan(run):
    """The order of everything: groups of phases that run side by side."""
    options, dry = run.options, run.options.dry_run
    tiny = ["--tiny"] if dry else []
    most = 12 if dry else 10000

    @functools.cache
    def cases_of(program):
        return (output([run.program(program), "--list"], 60 * options.pace, env=run.env) or "").splitlines()

    def tests(name, takes, limit, program, names, **more):
        chosen = spread(names, most)
        return Phase(name, takes, limit, program, ["--exact", "--tell", *chosen], tests=True,
                     skip="" if chosen else f"{program} has no such case", **more)

    def bench(name, takes, limit, **more):
        needs = output([run.program("gpu_bench"), "--needs", name]) if not dry else None
        memory = float(run.result["run"].get("memory_mib") or 0) * (1 << 20) / 1e9
        short = needs and memory and float(needs) > memory - 1
        return Phase(name, takes, limit, "gpu_bench", ["--part", name, *tiny],
                     skip=f"it needs {float(needs):.0f} GB, the GPU has {memory:.0f}" if short else "", **more)

    def watched(name, tool, program, patterns, takes=10, limit=60):
        listed = cases_of(program)
        found = [next((n for n in listed if re.search(p, n)), None) for p in patterns]
        absent = [p for p, n in zip(patterns, found) if n is None]
        phase = Phase(name, takes, limit, program, ["--exact", "--tell", *filter(None, found)], tests=True)
        if not options.sanitizer:
            phase.tool = "compute-sanitizer"
            phase.skip = "" if dry else "no compute-sanitizer"
        else:
            phase.prefix = [options.sanitizer, "--tool", tool, "--error-exitcode", "9"]
        if listed and absent:
            phase.skip = f"{program} has no case like {absent[0]}"
        return phase

    ops = {}
    for name in cases_of("gpu_ops_test"):
        ops.setdefault(family(name), []).append(name)
    rows = [name for name in cases_of("gpu_model_test") if name.startswith("row bits")]
    models = [name for name in cases_of("gpu_model_test") if name not in rows]
    library = {"NEMOTRON_CUDA_LIBRARY": run.program("libnemotron_cuda.so")}
    if dry:
        library["NEMOTRON_CUBLASLT"] = "none"
    goldens = output([run.program("golden_test"), "--list"], 60 * options.pace, env={**run.env, **library}) or ""
    goldens = [name for name in goldens.splitlines() if name.endswith("_cuda")]
    ncu = Phase("ncu", 10, 60, "gpu_bench", ["--part", "kernels", *tiny], env={"NEMOTRON_CUBLASLT": "none"}, to="ncu.txt",
                tool="" if options.ncu else "ncu", skip="" if options.ncu or dry else "no ncu")
    if options.ncu:
        ncu.prefix = [options.ncu, "--clock-control", "none", "-k", NCU_KERNELS,
                      *(word for section in NCU_SECTIONS for word in ("--section", section))]
    hopper = run.result["run"]["architecture"] == "sm_90"
    peer = Phase("torch", 40, 150, command=[sys.executable, os.path.join(ROOT, "bench/gpu/torch_peer.py")],
                 skip="" if options.torch else "no PyTorch")
    return [
        # right, before fast
        [tests("ops-products", 10, 60, "gpu_ops_test", ops.get("products", [])),
         tests("ops-attention", 10, 60, "gpu_ops_test", ops.get("attention", [])),
         tests("ops-sample", 5, 60, "gpu_ops_test", ops.get("sample", []))],
        [tests("goldens", 5, 40, "golden_test", goldens[:1] if dry else goldens, env=library)],
        [tests("model", 10, 60, "gpu_model_test", models)],
        [tests("row-bits", 10, 50, "gpu_model_test", rows)],
        # the headline
        [bench("ceilings", 5, 30)],
        [bench("8b-bf16", 15, 60)],
        [bench("8b-fp8", 15, 70)],
        # why
        [ncu],
        [tests("ops-wgmma", 5, 40, "gpu_ops_test", ops.get("wgmma", [])) if hopper or dry
         else Phase("ops-wgmma", 5, 40, skip="only sm_90 has wgmma")],
        [tests("ops-groups", 15, 60, "gpu_ops_test", ops.get("groups", []))],
        [bench("attention", 10, 45)],
        [bench("70b-fp8", 25, 90)],
        [bench("gemm", 15, 60)],
        [bench("sampler", 5, 20)],
        [bench("ranks", 5, 20)],
        [bench("70b-tp8", 10, 60)],
        # what a fault would have hidden
        [watched("memcheck", "memcheck", "gpu_ops_test", SANITIZED)],
        [watched("memcheck-steps", "memcheck", "gpu_model_test", SANITIZED_STEPS)],
        [watched("racecheck", "racecheck", "gpu_ops_test", SANITIZED)],
        [watched("memcheck-wgmma", "memcheck", "gpu_ops_test", SANITIZED_WGMMA) if hopper or dry
         else Phase("memcheck-wgmma", 5, 40, skip="only sm_90 has wgmma")],
        [watched("initcheck", "initcheck", "gpu_ops_test", SANITIZED)],
        # the rest
        [bench("8b-128k", 20, 60)],
        [peer],
    ]


# --- the machine ---


def machine_of(options):
    found = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "gpu": "emulated",
             "driver": "", "architecture": "sm_90", "power_limit_w": "", "clock_max_mhz": "", "memory_mib": "",
             "nvcc": "", "commit": commit_of(options.bin), "cpu_threads": os.cpu_count(), "dry_run": options.dry_run}
    if options.dry_run:
        return found
    fields = ["name", "driver_version", "compute_cap", "power.limit", "clocks.max.sm", "memory.total"]
    said = output(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"], 60)
    if not said or not said.strip():
        stop("no NVIDIA GPU here: nvidia-smi names none")
    values = [v.strip() for v in said.strip().splitlines()[0].split(",")]
    found["gpu"], found["driver"] = values[0], values[1]
    found["architecture"] = "sm_" + values[2].replace(".", "")
    found["power_limit_w"], found["clock_max_mhz"], found["memory_mib"] = values[3:6]
    version = output([find_nvcc() or "nvcc", "--version"]) or ""
    found["nvcc"] = version.split("release ")[1].split(",")[0] if "release " in version else ""
    return found


def parse():
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*", help="only these (default: all)")
    parser.add_argument("--out", help="where results go (default: build-gpu-results)")
    parser.add_argument("--bin", help="where the programs are, or are put (default: build-gpu)")
    parser.add_argument("--budget", type=float, help="seconds in all (default: 540; with --dry-run 7200)")
    parser.add_argument("--pace", type=float, help="all limits times so much, for a slower machine (default: 1; with --dry-run 20)")
    parser.add_argument("--build", nargs="?", const=os.path.join(ROOT, "build-gpu"), metavar="DIR", help="only build, into this folder (default: build-gpu)")
    parser.add_argument("--architectures", help="what --build compiles for (default: 90a-real)")
    parser.add_argument("--dry-run", action="store_true", help="no GPU: the same order on the CPU emulation, in tiny shapes")
    options = parser.parse_args()
    # Folders that are named lie where the caller stands, the others in the checkout.
    options.out = os.path.abspath(options.out or os.path.join(ROOT, "build-gpu-results"))
    options.bin = os.path.abspath(options.bin or os.path.join(ROOT, "build-gpu-dry" if options.dry_run else "build-gpu"))
    options.build = os.path.abspath(options.build) if options.build else None
    options.budget = options.budget or (7200 if options.dry_run else 540)
    options.pace = options.pace or (20 if options.dry_run else 1)
    return options


def main():
    options = parse()
    nvcc = find_nvcc()
    if nvcc:
        os.environ["CUDACXX"] = nvcc
    if options.build:
        if not nvcc and not options.dry_run:
            stop("no nvcc: put CUDA 12.4 or later on PATH, or set CUDACXX=/path/to/nvcc")
        build_folder(options.build, options.dry_run, options.architectures or "90a-real")
        return 0
    machine = machine_of(options)
    architecture = machine["architecture"].removeprefix("sm_")
    options.architectures = options.architectures or ("90a" if architecture == "90" else architecture) + "-real"
    cuda = os.path.dirname(nvcc) if nvcc else "/usr/local/cuda/bin"
    options.sanitizer = None if options.dry_run else find_tool("compute-sanitizer", os.path.join(cuda, "compute-sanitizer"))
    options.ncu = None if options.dry_run else find_tool("ncu", os.path.join(cuda, "ncu"), "/opt/nvidia/nsight-compute/*/ncu")
    options.torch = importlib.util.find_spec("torch") is not None

    run = Run(options, machine)
    if options.dry_run:
        run.env["NEMOTRON_CUBLASLT"] = os.path.join(run.folder + "-tree", "test/emu/libfake_cublaslt.so")
    else:
        for name, patterns in (("NEMOTRON_CUBLASLT", ["nvidia/cu*/lib/libcublasLt.so.1*", "nvidia/cublas/lib/libcublasLt.so.1*"]),
                               ("NEMOTRON_NCCL", ["nvidia/nccl/lib/libnccl.so.2"])):
            found = find_wheel(*patterns)
            if found and not run.env.get(name):
                run.env[name] = found

    def asked_to_stop(number, _):
        run.stopped = f"stopped by {signal.Signals(number).name}"
        for child in run.children:
            if child.poll() is None:
                run.end(child)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, asked_to_stop)

    smi = None
    try:
        if not options.dry_run:
            with open(os.path.join(run.out, "smi.csv"), "wb") as file:
                smi = subprocess.Popen(
                    ["nvidia-smi", "--query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,memory.used",
                     "--format=csv", "-l", "2"], stdout=file, stderr=subprocess.STDOUT, preexec_fn=end_with_parent)
        run.build()
        groups = plan(run)
        known = [phase.name for group in groups for phase in group]
        for name in options.phases:
            if name not in known:
                stop(f"no phase {name!r}; there are {' '.join(known)}")
        for group in groups:
            asked = [phase for phase in group if not options.phases or phase.name in options.phases]
            if asked:
                run.run_group(asked)
            run.save()
        run.result["ended"] = run.stopped or "complete"
    except Exception as e:  # a fault of this script: what is known stays, and says so
        run.result["ended"] = f"{type(e).__name__}: {e}"
        raise
    finally:
        run.result["ended"] = run.result["ended"] or "stopped"
        run.save()
        run.save_logs()
        shutil.rmtree(run.logs, ignore_errors=True)
        if smi:
            smi.kill()
            smi.wait()
    print(f"\n{'phase':16} {'at':>6} {'took':>6}  ended")
    for entry in run.result["phases"]:
        counts = f", {entry['passed']} passed" if "passed" in entry else ""
        counts += f", {len(entry['metrics'])} numbers" if "metrics" in entry else ""
        print(f"{entry['name']:16} {entry['at_s']:6.0f} {entry['seconds']:6.1f}  {entry['status']}{counts}"
              f"{': ' + entry['reason'] if entry['reason'] else ''}")
    print(f"{run.result['seconds']:.0f} s of {options.budget:.0f}; {run.out}: {' '.join(sorted(os.listdir(run.out)))}")
    return 0 if all(entry["status"] != "failed" for entry in run.result["phases"]) and not run.stopped else 1


if __name__ == "__main__":
    sys.exit(main())
