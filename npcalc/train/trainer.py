"""The trainer: one run from a configuration to averaged weights, resumable at every checkpoint."""

import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from tqdm import tqdm

from ..conventions import FIELDS
from ..data import LABELS
from ..errors import naming
from ..files import new_file
from ..model import ModelConfig, PolarizedModel
from ..potential.derivatives import EdgePotential
from .batches import Batches, species_index
from .checks import check_labels, check_movement
from .config import ConfigError, TrainConfig, reason_of
from .denormals import flush_denormals
from .distributed import Processes
from .energies import reference_energies
from .log import TrainingLog, progress_text
from .loss import Errors, LossModule
from .run_state import RunState, TrainingDiverged
from .splits import load_splits
from .start import RATE, Start
from .targets import PropertyFit, fit_properties
from .vectors import WeightVectors


def find_device(name: str) -> str:
    """Device of a run.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: It is none of them, or there is no GPU.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"training.device: expected auto, cpu or cuda, got {name!r}")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"training.device is {name!r}, but torch finds no GPU: take auto or cpu")
    return name


class Trainer:
    """Trains a potential.

    Making it reads the data and, where the output folder holds a checkpoint of the same
    configuration, takes up the run from there; the continued run is identical to one that was
    never interrupted. Training that diverges goes back to the last checkpoint and on with half the
    learning rate.

    Args:
        config: The run.

    Raises:
        ValueError: A label with a weight is in no structure, the data does not fit the model, or
            the output folder holds another run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        opt = config.training
        if opt.threads is not None:
            torch.set_num_threads(opt.threads)
        self.device = find_device(opt.device)
        self.processes = Processes(self.device)
        if opt.batch_size < self.processes.count:
            raise ValueError(
                f"training.batch_size is {opt.batch_size}, but {self.processes.count} processes "
                f"share a batch: give each of them a structure at least"
            )
        self.splits = load_splits(config)
        check_labels(config, self.splits)
        self.start = None if config.start_from is None else Start.of(config)
        self.elements = self._elements()
        self.reference = self._reference_energies()
        self.model_config = self._complete_model_config()
        self.properties = self._fit_properties()
        self.batches = {name: self._batches(name) for name in self.splits}
        self.scale = self._scale() if self.start is None else self.start.card.scale
        torch.manual_seed(opt.seed)
        model = PolarizedModel(self.model_config)
        check_movement(self.model_config.polarization, model)
        if self.start is not None:
            self.start.put_into(model)
        self.potential = EdgePotential(model, self.scale).to(self.device)
        self.loss = LossModule(
            self.potential, config.loss, opt.compile == "auto", self.properties
        ).to(self.device)
        usual = self.model_config.host.learning_rate * (1.0 if self.start is None else RATE)
        largest = opt.learning_rate or usual
        self.vectors = WeightVectors(self.loss, opt.weight_decay)
        self.weights, self.optimizer = self.vectors.current, self.vectors.optimizer
        self.output = Path(config.output)
        measured = [f"{t.name}_{kind}" for t in self.loss.targets for kind in ("mae", "rmse")]
        columns = ["epoch", "step", "learning_rate", "train_loss", *measured, "seconds"]
        self.log = TrainingLog(self.output / "log.csv", columns)
        hashes = {f"data.{name}": self.splits[name].sha256() for name in ("train", "validation")}
        if self.start is not None:
            hashes["start_from"] = self.start.sha256
        self.run_state = RunState(
            config,
            self.vectors,
            self.log,
            largest,
            self.steps_per_epoch,
            list(self.reference),
            hashes,
            self.processes.first,
        )

    @property
    def state(self) -> dict[str, Any]:
        """What the run is at: epoch, step, best error and so on."""
        return self.run_state.state

    def _elements(self) -> list[int]:
        if self.config.model.elements:
            return [atomic_numbers[e] for e in self.config.model.elements]
        return self.splits["train"].elements

    def _reference_energies(self) -> list[float]:
        return reference_energies(self.config, self.splits["train"], self.elements, self.start)

    def _complete_model_config(self) -> ModelConfig:
        symbols = tuple(chemical_symbols[z] for z in self.elements)
        raw = self.config.model.model_dump() | {"elements": symbols}
        try:
            config = ModelConfig.model_validate(raw)
        except ValidationError as error:
            raise ConfigError(f"model: {reason_of(error.errors()[0])}") from error
        if config.n_neighbors is not None or self.start is not None:
            return config
        with naming(self.config.data.file_of("train")):
            trial = Batches(
                self.splits["train"], self.elements, config.cutoff, self.reference, self.formal, 1
            )
        if trial.mean_neighbors == 0.0:
            raise ValueError(
                f"{self.config.data.file_of('train')}: no two atoms of a training structure are within the "
                f"cutoff of {config.cutoff} A: are its lengths in another unit (data.units)?"
            )
        return config.model_copy(update={"n_neighbors": trial.mean_neighbors})

    @property
    def formal(self) -> list[float]:
        """Formal charge of each element in e."""
        model = self.config.model
        use = model.formal_charges if model.charges != "none" else {}
        return [use.get(chemical_symbols[z], 0.0) for z in self.elements]

    def _fit_properties(self) -> PropertyFit | None:
        if not self.model_config.properties:
            return None
        train = self.splits["train"]
        fit = fit_properties(self.model_config, train, species_index(train, self.elements))
        return fit if self.start is None else self.start.keep_units(fit)

    def _batches(self, split: str) -> Batches:
        data = self.splits[split]
        lost = self.start is not None and not self.config.trains_dipole
        if not self.model_config.dipole or lost:  # nor has it an error then
            data = replace(data, labels={k: v for k, v in data.labels.items() if k != "dipole"})
        size = -(-self.config.training.batch_size // self.processes.count)
        cutoff = self.model_config.cutoff
        with naming(self.config.data.file_of(split)):
            return Batches(
                data,
                self.elements,
                cutoff,
                self.reference,
                self.formal,
                size,
                self.device,
                self.properties,
            )

    def _scale(self) -> float:
        """Root mean square force times 1 A, so that the network's energies are of order one.

        Forces may vanish by symmetry, as those of strained crystals do: the spread of the energies of an atom
        is the least, where they are trained.
        """
        label = self.splits["train"].labels.get("forces")
        if self.config.loss.forces == 0.0 or label is None or not label.present.any():
            return 1.0
        scale = float(np.sqrt(np.nanmean(label.values**2)))
        train = self.batches["train"]
        if self.config.loss.energy > 0.0 and train.has_energy.any():
            scale = max(scale, float((train.energy / train.n_atoms)[train.has_energy].std()))
        return scale if scale > 1e-6 else 1.0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; the last may be of fewer structures, but has one for each process."""
        whole, rest = divmod(len(self.splits["train"]), self.config.training.batch_size)
        return max(whole + (rest >= self.processes.count), 1)

    @flush_denormals()
    def run(self, progress: bool = True) -> None:
        """Trains to the last epoch, with checkpoints on the way.

        Args:
            progress: Whether to show a bar.
        """
        opt = self.config.training
        module = self.processes.wrap(self.loss)
        show = progress and self.processes.first
        with tqdm(
            initial=self.state["epoch"],
            total=opt.epochs,
            desc=self.config.name,
            unit="epoch",
            disable=not show,
        ) as bar:
            due = False
            while self.state["epoch"] < opt.epochs:
                began = time.perf_counter()
                try:
                    train_loss = self._epoch(module, self.state["epoch"])
                except TrainingDiverged as reason:
                    self.run_state.retreat(reason)
                    bar.update(self.state["epoch"] - bar.n)
                    continue
                epoch = self.state["epoch"] = self.state["epoch"] + 1
                self.state["seconds"] += time.perf_counter() - began
                bar.update()
                if epoch == opt.epochs or epoch % opt.validate_every == 0:
                    bar.set_postfix_str(
                        progress_text(self._validate(train_loss), self.loss.targets)
                    )
                due = due or epoch % opt.checkpoint_every == 0
                if epoch == opt.epochs or (due and self.run_state.is_settled):
                    self.run_state.save()
                    due = False

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Order of the training structures in an epoch.

        It depends on seed and epoch alone, so a continued run needs no state of a generator.
        """
        rng = np.random.default_rng([self.config.training.seed, epoch])
        return rng.permutation(len(self.splits["train"]))

    def _epoch(self, module: torch.nn.Module, epoch: int) -> float:
        """One pass over the data; returns the mean loss."""
        opt = self.config.training
        batches = self.batches["train"]
        order = self.order(epoch)
        losses = []
        for k in range(self.steps_per_epoch):
            index = order[k * opt.batch_size : (k + 1) * opt.batch_size]
            batch = batches.make(index, self.processes.rank, self.processes.count)
            self.optimizer.zero_grad(set_to_none=True)
            loss, _ = module(*batch)
            self.processes.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(self.weights, opt.clip)
            if not torch.isfinite(norm):
                raise TrainingDiverged(f"the gradient is NaN or infinite in epoch {epoch}")
            self.run_state.step()
            losses.append(float(loss.detach()))
        means = [statistics.mean(losses), statistics.median(losses[-max(5, len(losses) // 20) :])]
        mean, late = (
            self.processes.sum(torch.tensor(means, device=self.device)) / self.processes.count
        ).tolist()
        self.run_state.check_loss(mean, late, epoch)
        return mean

    def errors(self, split: str, weights: Tensor | None = None) -> Errors:
        """Errors on a split.

        Args:
            split: ``train``, ``validation`` or ``test``.
            weights: Weights to use, a vector; the best averaged ones by default.

        Returns:
            The errors.
        """
        sums = self._statistics(split, self.vectors.best if weights is None else weights)
        return Errors.from_sums([t.name for t in self.loss.targets], sums)

    def _statistics(self, split: str, weights: Tensor) -> Tensor:
        """Statistics of `Errors.from_sums` on a split."""
        total = torch.zeros(len(self.loss.targets), 4, dtype=torch.float64, device=self.device)
        with torch.no_grad() if self.loss.compiled else torch.enable_grad():
            for k, batch in enumerate(self.batches[split].ordered()):
                if k % self.processes.count == self.processes.rank:
                    total += self.loss.evaluate(weights, batch)[1]
        return self.processes.sum(total)

    def center_energies(self) -> None:
        """Sets the zero of energy by the validation structures, where it is a free constant.

        With one composition only the sum of the reference energies matters, and it shifts all
        energies alike. Off the training structures an over-fitted network is biased; the mean error
        of the structures it has not seen is taken off the reference energies, in equal parts.
        """
        formula = self.splits["train"].common_formula
        fitted = self.config.data.reference_energies == "fit"
        if (
            self.config.loss.energy == 0.0
            or not fitted
            or not formula
            or self.splits["validation"].common_formula != formula
        ):
            return
        _, _, signed, count = self._statistics("validation", self.vectors.best)[0].tolist()
        if count == 0.0:
            return
        shift = signed / count / int(self.splits["train"].n_atoms[0])
        self.reference = [energy - shift for energy in self.reference]
        for batches in self.batches.values():
            batches.shift_energies(shift)

    def _validate(self, train_loss: float) -> Errors:
        errors = self.errors("validation", self.vectors.average)
        score = self._score(errors)
        if score < self.state["best"]:
            self.state["best"] = score
            self.state["best_epoch"] = self.state["epoch"]
            self.vectors.keep_average()
        if self.processes.first:
            rate = self.run_state.rate_now
            row = [self.state["epoch"], self.state["step"], f"{rate:.3e}", f"{train_loss:.6e}"]
            row += [f"{e:.6e}" for e in errors.values()] + [f"{self.state['seconds']:.1f}"]
            self.log.add(row)
        return errors

    def _score(self, errors: Errors) -> float:
        """What the best weights are chosen by: weighted errors, without that of energies beside forces."""
        terms = {
            t.name: t.weight * errors[f"{t.name}_mae"] / t.unit
            for t in self.loss.targets
            if t.weight > 0.0
        }
        found = {name: term for name, term in terms.items() if not math.isnan(term)}
        if "energy" in found:
            # Forces say more often and with less noise how good a potential is.
            per_atom = found.pop("energy") / self.batches["validation"].n_atoms.mean()
            if "forces" not in found:
                found["energy"] = per_atom
        return sum(found.values()) if found else math.nan

    def best_model(self) -> PolarizedModel:
        """A model with the best averaged weights, in evaluation mode on the CPU."""
        model = PolarizedModel(self.model_config)
        best = self.loss.pieces(self.vectors.best.cpu())
        model.load_state_dict({k.removeprefix("model."): v for k, v in best.items()}, strict=False)
        return model.eval()

    def write_summary(self, errors: dict[str, Errors]) -> None:
        """Writes ``summary.json`` with the state and the final errors by split."""
        summary = {
            "state": self.state,
            "errors": {k: v.known() for k, v in errors.items()},
            "units": {k: FIELDS[k].unit for k in LABELS}
            | {k: p.unit for k, p in self.model_config.properties.items()},
        }
        with new_file(self.output / "summary.json", overwrite=True) as partial:
            partial.write_text(json.dumps(summary, indent=1))
