"""The file of a potential: TorchScript, a JSON card and safetensors weights in one ``.pt``.

``torch.jit.load`` reads the file without npcalc, from C++ too; npcalc reads card and weights from
it and rebuilds the network; ``unzip`` shows both. Python's pickle is not used to load anything. No
other file writes or reads TorchScript.
"""

import copy
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..files import new_file
from ..model import PolarizedModel

# The source of a potential calls these, and finds them where it is defined.
from ..ops.pairs import edge_messages, edge_messages_backward, one_of_each_pair  # noqa: F401
from .card import FORMAT, Card
from .derivatives import PotentialModule
from .molecular import MolecularProperties
from .portable import portable_source

Script = Callable[..., dict[str, Tensor]]

CARD = "card.json"
WEIGHTS = "weights.safetensors"


class ArchiveError(ValueError):
    """The file is not a potential, is damaged, or is of a newer format."""


def build_module(
    card: Card, weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> PotentialModule:
    """The potential that a card and its weights describe, in evaluation mode.

    Args:
        card: The card.
        weights: Parameters of the network by name.
        dtype: Data type to build it in.

    Raises:
        ArchiveError: Weights and card do not belong together.
    """
    model = PolarizedModel(card.model, dtype)
    expected = dict(model.named_parameters())
    if set(expected) != set(weights):
        odd = sorted(set(expected) ^ set(weights))
        raise ArchiveError(
            f"card and weights do not fit: {len(odd)} names differ, first {odd[0]!r}"
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            if parameter.shape != weights[name].shape:
                raise ArchiveError(
                    f"weight {name!r}: expected shape {tuple(parameter.shape)}, got "
                    f"{tuple(weights[name].shape)}"
                )
            parameter.copy_(weights[name])
    references = [list(row) for row in card.property_references]
    properties = MolecularProperties(card.model, card.property_scales, references)
    module = PotentialModule(
        model, card.scale, list(card.reference_energies), card.formal_charges, properties
    )
    return module.eval().requires_grad_(False)


def write_archive(
    path: str | os.PathLike[str], card: Card, model: PolarizedModel, overwrite: bool = False
) -> None:
    """Writes a potential; the file appears only when it is complete.

    Args:
        path: File to write.
        card: Its card.
        model: Its network.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: The file exists.
    """
    card = card.model_copy(update={"format": FORMAT})
    weights = {k: v.detach().cpu().contiguous() for k, v in model.named_parameters()}
    module = build_module(card, weights, getattr(torch, card.dtype))
    with warnings.catch_warnings():
        # torch deprecates TorchScript from 2.10 on and says so at each call.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        source, constants = portable_source(module)
        # A class of its own: TorchScript lets modules of one class and the same attributes share methods.
        holder = type("PortablePotential", (nn.Module,), {})()
        holder.bounded = "many_edges" in source  # whether it needs little memory for an edge
        # Copied together, so that constants which lie in the same memory still do.
        for name, value in copy.deepcopy({k: v.detach() for k, v in constants.items()}).items():
            holder.register_buffer(name, value)
        scripted: Any = torch.jit.script(holder.eval())
        scripted.define(source)
        extra = {CARD: card.model_dump_json(indent=1), WEIGHTS: save_tensors(weights)}
        with new_file(path, overwrite) as partial:
            torch.jit.save(scripted, str(partial), _extra_files=extra)


def load_script(path: str | os.PathLike[str], device: torch.device) -> Script:
    """The TorchScript of a potential, which needs neither its network nor a compiler.

    Args:
        path: File that `write_archive` wrote.
        device: Where to load it.

    Returns:
        A function with arguments and results of `PotentialModule.forward`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(os.fspath(path), map_location=device)


def read_archive(path: str | os.PathLike[str]) -> tuple[Card, dict[str, torch.Tensor]]:
    """Reads card and weights of a potential; the card is checked first.

    Args:
        path: File that `write_archive` wrote.

    Returns:
        Card and parameters by name.

    Raises:
        FileNotFoundError: There is no such file.
        ArchiveError: It is not a potential, damaged, or of a newer format.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no potential file {name!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {Path(entry).name: entry for entry in archive.namelist() if "/extra/" in entry}
            if CARD not in inside or WEIGHTS not in inside:
                raise ArchiveError(
                    f"{name!r} is not an npcalc potential: it holds no {CARD} and {WEIGHTS}"
                )
            damaged = archive.testzip()
            if damaged is not None:
                raise ArchiveError(f"{name!r} is damaged in {damaged!r}: get the file again")
            raw_card = archive.read(inside[CARD])
            raw_weights = archive.read(inside[WEIGHTS])
    except zlib.error as error:  # of an entry that is compressed, before its checksum is looked at
        raise ArchiveError(f"{name!r} is damaged ({error}): get the file again") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise ArchiveError(
            f"{name!r} is not a potential, or a truncated one ({error}): get the file again"
        ) from error
    card = _parse_card(raw_card, name)
    try:
        return card, load_tensors(raw_weights)
    except Exception as error:
        raise ArchiveError(f"the weights in {name!r} are damaged: {error}") from error


def _parse_card(raw: bytes, name: str) -> Card:
    try:
        values = json.loads(raw)
        version = int(values["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"the card in {name!r} cannot be read: {error!r}") from error
    if version > FORMAT:
        raise ArchiveError(
            f"{name!r} has format {version}, this npcalc reads up to {FORMAT}: update npcalc"
        )
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArchiveError(f"the card in {name!r} is not valid: {where}: {first['msg']}") from error
