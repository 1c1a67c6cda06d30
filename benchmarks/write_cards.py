"""Writes the README of each shipped potential and the table in the project's README from their cards.

python benchmarks/write_cards.py
"""

import re
from pathlib import Path

from npcalc.potential import Card
from npcalc.potential.archive import read_archive

ROOT = Path(__file__).resolve().parents[1]


def row(card: Card) -> str:
    """Errors on the test split as cells of a table: forces, energy, dipole."""
    test = card.errors["test"]
    forces, energy, dipole = test["forces_mae"], test["energy_mae"], test["dipole_mae"]
    return f"{1000 * forces:.1f} | {1000 * energy:.2f} | {dipole:.4f}"


def points(card: Card) -> str:
    n = card.model.n_points
    return f"{n} electron point" + "s" * (n != 1)


def page(card: Card) -> str:
    host = card.model.host
    data = card.data
    ranges = ", ".join(f"{e} {d:.3f}" for e, d in card.displacement_range.items())
    lines = [
        f"# {card.name}",
        "",
        card.description,
        "",
        f"- Network: {host.name}, {host.channels} channels, {host.n_layers} layers, cutoff {card.model.cutoff} A, "
        f"{card.model.polarization} points, {card.model.coupling}, {points(card)} per atom.",
        f"- Composition: {card.composition} alone; anything else is extrapolated, and the calculator warns of another composition "
        "and of broken bonds.",
        f"- Level of theory: {data['level_of_theory']}.",
        f"- Data: {data['origin']}; {data['n_train']} structures to train on, {data['n_validation']} to validate, "
        f"{data['n_test']} to test. SHA-256 of the training set: `{data['sha256_train'][:16]}...`.",
        f"- Training: best of {data['epochs']} epochs was {data['best_epoch']}; `log.csv` has the course.",
        f"- Reference energies: {data['reference_energies']}.",
        f"- Largest |d| on the training structures (A): {ranges}.",
        f"- Licence: {card.license}. Cite: {card.citation}",
        "",
        "| split | forces MAE, meV/A | energy MAE, meV | dipole MAE, e A | forces RMSE | energy RMSE | dipole RMSE |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for split, e in card.errors.items():
        lines.append(
            f"| {split} | {1000 * e['forces_mae']:.2f} | {1000 * e['energy_mae']:.2f} | {e['dipole_mae']:.5f} | "
            f"{1000 * e['forces_rmse']:.2f} | {1000 * e['energy_rmse']:.2f} | {e['dipole_rmse']:.5f} |"
        )
    return "\n".join([*lines, "", "Train it again: `npcalc train train.yaml` in this folder.", ""])


def main() -> None:
    table = [
        "| name | network | forces, meV/A | energy, meV | dipole, e A |",
        "| --- | --- | --- | --- | --- |",
    ]
    for path in sorted((ROOT / "potentials").glob("*/*.pt")):
        card = read_archive(path)[0]
        (path.parent / "README.md").write_text(page(card))
        host = card.model.host
        network = f"{host.name}, {host.channels} channels, {points(card)}"
        table.append(f"| `{card.name}` | {network} | {row(card)} |")
    readme = ROOT / "README.md"
    marked = "<!-- potentials -->\n" + "\n".join(table) + "\n<!-- end of potentials -->"
    pattern = r"<!-- potentials -->.*<!-- end of potentials -->"
    readme.write_text(re.sub(pattern, marked, readme.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
