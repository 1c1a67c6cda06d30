"""Time, memory and start-up of npcalc beside SchNetPack, MACE, NequIP and TorchANI, in one run.

    python benchmarks/speed.py run ENVIRONMENTS [--rounds 2] [--only WORD,WORD ...] [--name speed]
    python benchmarks/speed.py table [--name speed]

ENVIRONMENTS is a folder with the environments of the peers (each with torch 2.13.0): ``schnetpack`` (schnetpack 2.0.4,
matscipy), ``mace`` (mace-torch 0.3.16), ``nequip`` (nequip 0.19.1, matscipy), ``torchani`` (torchani 2.9.0). Each case runs in a process of its own, cases
alternate over the rounds, and nothing else may run beside them. An ASE step is the forces after all atoms have moved by
some 0.01 A about fixed places. Peers search neighbors at each step, as their calculators do, npcalc once, as it does in some hundred
steps of dynamics (its list reaches 0.5 A farther than the cutoff); npcalc gives the dipole too, the peers do not. All networks have a cutoff of 5 A;
npcalc is its `painn`, 64 channels, 3 layers, paired products, moving points, 8 radial functions: ``ethanol-fast`` (``fast``,
eight points, trained) and the same with one point and random weights (``one``). TorchANI is one network of the form of ANI-2x, random
weights, no vectors. A start is from the imported package to the first forces, with machine code in the cache; ``import``
is a process that imports the package, ``machine-code`` is compiling ``ethanol-fast`` for an empty cache. ``train`` is a step of ten
structures of ethanol, ``train-aspirin`` of aspirin, ``plain`` without points (and dipoles), as SchNetPack's ``train-plain``. Evaluation
is 1000 structures of ethanol at once, time of one; ``singly`` is the same with a calculator, one after the other; ``around`` is a
step whose model returns at once: what calculator, ASE and displacements take, and ``ase empty`` the same of a calculator
without a model, made as ASE's manual says. ``operator`` is one layer's messages of ``ethanol-fast`` on 192 atoms of water,
or their gradient, that with weights, or the gradient of the gradient, and nothing else. ``core`` measures a core: products
of matrices and copies of memory.
The limit beside a time is that of the products of the compiled code (filters of all pairs, forward, again and back) at
the speed of that core. `speed_cases.py` has the cases of npcalc, `speed_peers.py` those of the peers. ``run`` writes
`results/NAME.json`, ``table`` the Markdown and a plot; a machine of another kind gets a name of its own.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure
from rows import save_figure, write_table

from npcalc.files import new_file

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WATER = ("water-192", "water-1536", "water-12288")
ATOMS = {"ethanol": 9, "aspirin": 21, **{name: int(name.split("-")[1]) for name in WATER}}
HOW = {"compiled": "compiled", "script": "not compiled"}
"""Ways of running a potential, and what tables call them."""

POTENTIALS = {"fast": "npcalc, `ethanol-fast`", "one": "npcalc, 1 point"}
OPERATORS = {
    "messages": "messages",
    "messages_backward": "their gradient",
    "messages_weight_backward": "the same with that by the weights",
    "messages_second_backward": "gradient of the gradient",
}
PEERS = {
    "schnetpack": "SchNetPack PaiNN, 64 channels, 3 layers",
    "mace": "MACE 64x0e, 2 layers",
    "nequip": "NequIP l = 1, 32 features, 3 layers",
    "torchani": "ANI-2x form, one network",
}


def cases() -> list[str]:
    """All cases: who, way of running, what, threads."""
    found = []
    for what in ("ethanol", "aspirin", *WATER):
        for points in POTENTIALS:
            found += [f"{points} {way} {what} 1" for way in HOW]
        if what in ("ethanol", "aspirin", "water-192"):
            found += [f"{peer} peer {what} 1" for peer in PEERS]
    for what in ("ethanol", "water-192", "water-1536"):
        found += [f"fast {way} {what} 2" for way in HOW]
    for what in ("evaluate", "singly"):
        found += [f"fast {way} {what} {n}" for way in HOW for n in (1, 2)]
    found += ["fast compiled around 1", "ase empty around 1"]
    found += ["fast compiled start 1", "fast script start 1"]
    found += ["fast script import 1", "fast compiled machine-code 1"]
    found += [f"accurate {way} ethanol 1" for way in HOW]
    found.append("accurate compiled water-192 1")
    found += [f"operator compiled {what} 1" for what in OPERATORS]
    found += [f"{points} compiled train 1" for points in ("fast", "one", "plain")]
    found += [f"{points} compiled train-aspirin 1" for points in ("fast", "plain")]
    found += [f"schnetpack peer {what} 1" for what in ("train", "train-plain", "train-aspirin")]
    return [*found, "fast compiled water-100k 1", "fast script water-100k 1", "core core core 1"]


def limit(row: dict, gflops: float) -> float:
    """Time in ms of the products of filters alone: 3 layers, 8 functions, 4 x 64 filters, each pair once.

    It is the same for any number of points, of which a channel sees one: four distances, and with products
    (rows before them name no coupling) three shifts.
    """
    seen = 7 if row.get("coupling") == "paired_products" else 4
    functions = 8 * (2 + 2 * seen)  # in the first layer all points are still
    return 3 * 2 * functions * 256 * row["edges"] / 2 / gflops / 1e6


def run(environments: Path, rounds: int, only: list[str], result: Path) -> None:
    folder = environments / "npcalc-speed"
    folder.mkdir(exist_ok=True)
    chosen = [c for c in cases() if all(any(w in c for w in words.split(",")) for words in only)]
    # What is compiled once on a machine is compiled before the clock starts.
    prepare = [(who, "compiled", "ethanol", "1") for who in ("one", "fast", "accurate")]
    known = {c for c in chosen if "compiled" in c}
    for case in (" ".join(p) for p in prepare):
        if any(c.split()[0] == case.split()[0] for c in known):
            call(case, environments, folder)
    results: dict[str, list[dict]] = {}
    for _ in range(rounds):
        for case in chosen:
            if "water-100k" in case and case in results:
                continue
            results.setdefault(case, []).append(call(case, environments, folder))
            print(case, results[case][-1], flush=True)
            store(case, results[case], result)


def store(case: str, rounds: list[dict], result: Path) -> None:
    """Writes a case, from the rounds that it has had, among those of the file."""
    stored = json.loads(result.read_text()) if result.exists() else {}
    stored[case] = {
        **rounds[-1],
        "median_ms": statistics.median(r["median_ms"] for r in rounds),
        "rounds_ms": [round(r["median_ms"], 3) for r in rounds],
        "peak_MiB": max(r["peak_MiB"] for r in rounds),
    }
    with new_file(result, overwrite=True) as partial:
        partial.write_text(json.dumps(stored, indent=1) + "\n")


def call(case: str, environments: Path, folder: Path) -> dict:
    """Runs a case in a process of its own."""
    who, way, what, threads = case.split()
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if way == "peer":
        python = environments / who / "bin" / "python"
        command = [str(python), "-W", "ignore", str(HERE / "speed_peers.py"), who, what, threads]
    else:
        command = [sys.executable, "-W", "ignore", str(HERE / "speed_cases.py"), case, str(folder)]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(result: Path) -> None:
    """Markdown of what has been measured."""
    rows = json.loads(result.read_text())
    versions = sorted({r["version"] for r in rows.values() if "version" in r})
    lines = [
        "# Speed", "",
        f"Medians of single steps, ms; float32, one thread unless said. {', '.join(versions)}. Ratio: time of the peer over",
        "that of npcalc, compiled / not compiled, `ethanol-fast`. Peers run as their calculators do by default, not compiled:",
        "the second number compares like with like. The model alone was timed apart from the steps. What the cases are",
        "stands in `speed.py`.", "",
        "## One ASE step, forces (and dipole of npcalc)", "",
        "| structure | edges | `ethanol-fast`, compiled / not | model alone | npcalc 1 point, compiled / not | limit | SchNetPack PaiNN | ratio | MACE 64x0e | ratio | NequIP l = 1 | ratio | ANI-2x | ratio |",
        "| --- " * 14 + "|",
    ]  # fmt: skip
    gflops = rows["core core core 1"]["gflops"]
    for what in ("ethanol", "aspirin", *WATER):
        ours = {(p, w): rows.get(f"{p} {w} {what} 1") for p in POTENTIALS for w in HOW}
        if not ours["fast", "compiled"]:
            continue
        cells = [what, str(ours["fast", "compiled"]["edges"])]
        cells += [" / ".join(ms(ours["fast", w]) for w in HOW)]
        cells += [" / ".join(f"{ours['fast', w]['model_ms']:.3g}" for w in HOW)]
        cells += [" / ".join(ms(ours["one", w]) for w in HOW)]
        cells.append(f"{limit(ours['fast', 'compiled'], gflops):.2g}")
        for peer in PEERS:
            other = rows.get(f"{peer} peer {what} 1")
            cells.append(ms(other))
            cells.append(
                " / ".join(f"{other['median_ms'] / ours['fast', w]['median_ms']:.2f}" for w in HOW)
                if other
                else "-"
            )
        lines.append(f"| {' | '.join(cells)} |")
    core = rows["core core core 1"]
    lines += [
        "", f"The core ({core['processor']}): {core['gflops']} GFLOP/s in products of matrices, {core['copy_GB_s']} GB/s read and written in copies.",
    ]  # fmt: skip
    powers = []
    for points, name in POTENTIALS.items():
        for way in HOW:
            small, large = (rows.get(f"{points} {way} {w} 1") for w in (WATER[0], WATER[2]))
            if small and large:
                power = math.log(large["median_ms"] / small["median_ms"]) / math.log(64)
                powers.append(f"- {name}, {way}: {power:.3f}")
    if powers:
        lines += ["", "Exponent of time against atoms, 192 to 12,288:", "", *powers]
    names = {
        "fast around": "calculator, ASE and displacements around a model that returns at once",
        "ase around": "the same of a calculator made as ASE's manual says, whose results are zeros",
        "accurate ethanol": "step of the potential `ethanol` (nequip, 48 channels), compiled / not",
        "accurate water-192": "the same for 192 atoms of water, compiled",
    }
    names |= {
        "fast import": "importing the package, PyTorch with it",
        "fast start": "from the imported package to the first forces, compiled with machine code in the cache / not",
        "fast machine-code": "making machine code of `ethanol-fast` for an empty cache",
    }
    for what, name in OPERATORS.items():
        names[f"operator {what}"] = (
            f"operator of `painn` alone, one layer, 192 atoms of water: {name}"
        )
    others = []
    for case, name in names.items():
        who, what = case.split()
        found = [rows.get(f"{who} {way} {what} 1") for way in ("compiled", "script", "empty")]
        if any(found):
            others.append(f"- {name}: {' / '.join(ms(row) for row in found if row)}")
    if others:
        lines += ["", "## Other steps, ms; of ethanol unless said", "", *others]
    lines += ["", "## Training, and many structures at once", ""]
    pairs = [
        ("training step of SchNetPack over that of `ethanol-fast`, both with dipoles", "schnetpack peer train 1", "fast compiled train 1"),
        ("the same, 1 point", "schnetpack peer train 1", "one compiled train 1"),
        ("the same, no points and neither with dipoles", "schnetpack peer train-plain 1", "plain compiled train 1"),
        ("training step of SchNetPack over that of ours on aspirin, no points and no dipoles", "schnetpack peer train-aspirin 1", "plain compiled train-aspirin 1"),
        ("training step of SchNetPack without points over that of eight points on aspirin, no dipoles", "schnetpack peer train-aspirin 1", "fast compiled train-aspirin 1"),
    ]  # fmt: skip
    for n, threads in ((1, "one thread"), (2, "two threads")):
        for way, how in HOW.items():
            name = f"one by one over all at once, `ethanol-fast`, {how}, {threads}"
            pairs.append((name, f"fast {way} singly {n}", f"fast {way} evaluate {n}"))
    for name, over, under in pairs:
        if over in rows and under in rows:
            a, b = (rows[case]["median_ms"] for case in (over, under))
            lines.append(f"- {name}: {a / b:.2f} ({a:.3g} and {b:.3g} ms)")
    lines += ["", "## The rest", "", "| case | ms | rounds | peak MiB |", "| --- " * 4 + "|"]
    for case, row in rows.items():
        rounds = ", ".join(map(str, row["rounds_ms"]))
        lines.append(f"| {case} | {ms(row)} | {rounds} | {row['peak_MiB']} |")
    write_table(result, lines)
    plot(rows, result.with_suffix(".png"))


def plot(rows: dict[str, dict], target: Path) -> None:
    """Time of an ASE step against atoms, one thread."""
    figure = Figure(figsize=(6.5, 4.5), layout="tight")
    axis = figure.subplots()
    kinds = [
        (f"{who} {way}", "o-" if way == "compiled" else "s--", f"{name}, {HOW[way]}")
        for who, name in POTENTIALS.items()
        for way in HOW
    ]
    kinds += [(f"{who} peer", "^:", name) for who, name in PEERS.items()]
    for kind, style, name in kinds:
        known = {n: rows.get(f"{kind} {what} 1") for what, n in ATOMS.items()}
        times = {n: row["median_ms"] for n, row in known.items() if row}
        axis.plot(list(times), list(times.values()), style, label=name)
    ours = {n: rows.get(f"fast compiled {what} 1") for what, n in ATOMS.items()}
    limits = {n: limit(row, rows["core core core 1"]["gflops"]) for n, row in ours.items() if row}
    axis.plot(list(limits), list(limits.values()), color="black", lw=1, label="limit")
    axis.set(xscale="log", yscale="log", xlabel="atoms: ethanol, aspirin, water")
    axis.set_ylabel("ASE step, forces, one thread, ms")
    axis.legend(fontsize=7)
    save_figure(figure, target)


def ms(row: dict | None) -> str:
    return f"{row['median_ms']:.3g}" if row else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    writer = commands.add_parser("table")
    runner = commands.add_parser("run")
    for command in (writer, runner):
        command.add_argument("--name", default="speed", help="of the files in results/")
    runner.add_argument("environments", type=Path)
    runner.add_argument("--rounds", type=int, default=2)
    runner.add_argument(
        "--only",
        nargs="*",
        default=[],
        help="what a case must have: word or word,word, one of these",
    )
    args = parser.parse_args()
    result = RESULTS / f"{args.name}.json"
    if args.command == "table":
        table(result)
    else:
        run(args.environments, args.rounds, args.only, result)


if __name__ == "__main__":
    main()
