"""Hosts without polarization against independent implementations with the same weights.

The numbers in ``tests/golden`` were made by the peers themselves with the scripts in
``benchmarks/golden``.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from e3nn import o3

from npcalc.model import ModelConfig, PolarizedModel
from npcalc.nn.hosts.nequip import NequIPLayer, path_matrices
from npcalc.potential.derivatives import EdgePotential

GOLDEN = Path(__file__).parents[1] / "golden"
CUTOFF = 3.5
ELEMENTS = ("H", "C", "O")


def evaluate(model, numbers, positions):
    """Energy and forces of the raw readout, without the shift by isolated atoms."""
    potential = EdgePotential(model.eval(), 1.0)
    model.isolated_energy.zero_()
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    center, neighbor = (torch.tensor(k) for k in np.nonzero((distance < CUTOFF) & (distance > 0)))
    r = torch.tensor(positions)
    species = torch.tensor([(1, 6, 8).index(z) for z in numbers])
    out = potential(r[neighbor] - r[center], species, center, neighbor)
    return out.energies.sum().item(), out.forces.detach().numpy()


def compare(model, file):
    for k, positions in enumerate(file["positions"]):
        energy, forces = evaluate(model, file["numbers"], positions)
        assert energy == pytest.approx(file["energies"][k], rel=1e-10)
        np.testing.assert_allclose(forces, file["forces"][k], atol=1e-10 * abs(forces).max())


def set_weights(module, values):
    own = dict(module.named_parameters())
    assert set(own) == set(values)
    with torch.no_grad():
        for name, value in values.items():
            assert own[name].shape == value.shape, name
            own[name].copy_(torch.as_tensor(value))


def test_painn_is_schnetpacks():
    file = dict(np.load(GOLDEN / "painn_schnetpack.npz"))
    host = {"name": "painn", "channels": 8, "n_layers": 3, "n_basis": 10, "basis": "gaussian"}
    host["epsilon"] = 1e-8  # the peer's, which has a cone where vectors vanish
    config = ModelConfig(
        host=host,
        elements=ELEMENTS,
        cutoff=CUTOFF,
        envelope="cosine",
        polarization="none",
        dipole=False,
    )
    model = PolarizedModel(config, torch.float64)
    c = 8
    # SchNetPack orders the parts of a message scalar, direction, vector; here direction is last.
    order = np.concatenate([np.arange(c), np.arange(2 * c, 3 * c), np.arange(c, 2 * c)])
    peer = {k.removeprefix("representation."): v for k, v in file.items() if "representation" in k}
    values = {"embedding.weight": peer["embedding.weight"]}
    for n in range(3):
        for kind in ("weight", "bias"):
            message, mixing = f"interactions.{n}.interatomic_context_net", f"mixing.{n}"
            rows = slice(3 * c * n, 3 * c * (n + 1))
            values |= {
                f"layers.{n}.phi.0.{kind}": peer[f"{message}.0.{kind}"],
                f"layers.{n}.phi.2.{kind}": peer[f"{message}.1.{kind}"][order],
                f"layers.{n}.filter.{kind}": peer[f"filter_net.{kind}"][rows][order],
                f"layers.{n}.update.0.{kind}": peer[f"{mixing}.intraatomic_context_net.0.{kind}"],
                f"layers.{n}.update.2.{kind}": peer[f"{mixing}.intraatomic_context_net.1.{kind}"],
            }
        values[f"layers.{n}.mix.weight"] = peer[f"mixing.{n}.mu_channel_mix.weight"]
    for k, own in ((0, 0), (1, 2)):
        for kind in ("weight", "bias"):
            values[f"readout.{own}.{kind}"] = file[f"readout.outnet.{k}.{kind}"]
    set_weights(model.host, values)
    compare(model, file)


def nequip_layer_weights(peer, index, layer: NequIPLayer, inputs, embedding):
    """Weights of one layer from those of the package, which lie in one flat array per module."""
    c = layer.channels
    prefix = f"layer{index}_convnet.conv."
    values = {}
    flat = peer[prefix + "linear_1.weight"].reshape(len(inputs), c, c)
    for k in range(len(inputs)):
        values[f"before.{k}.weight"] = flat[k]

    outputs = layer.outputs
    # The package numbers paths by input, harmonic, output; here they are grouped by output.
    package_paths = [
        (i, j, out)
        for i, ir in enumerate(inputs)
        for j, edge in enumerate([o3.Irrep(k, (-1) ** k) for k in range(3)])
        for out in ir * edge
        if out in outputs
    ]
    own_paths = [p for out in outputs for p in package_paths if p[2] == out]
    columns = [package_paths.index(p) * c + u for p in own_paths for u in range(c)]
    values["convolution.radial.0.weight"] = peer[prefix + "edge_mlp.mlp.0.weight"]
    values["convolution.radial.2.weight"] = peer[prefix + "edge_mlp.mlp.2.weight"][:, columns]

    widths = [lin.weight.shape[1] for lin in layer.after]
    flat, start = peer[prefix + "linear_2.weight"], 0
    for ir in sorted(outputs):
        k = outputs.index(ir)
        n_in = layer.convolution.paths[k] * c
        values[f"after.{k}.weight"] = flat[start : start + n_in * widths[k]].reshape(
            n_in, widths[k]
        )
        start += n_in * widths[k]
    assert start == len(flat)
    if index > 0:
        flat, start = peer[prefix + "sc.weight"], 0
        n_attr = embedding.shape[1]
        for ir in inputs:
            if ir in outputs:
                k = outputs.index(ir)
                size = c * n_attr * widths[k]
                tensor = flat[start : start + size].reshape(c, n_attr, widths[k])
                per_type = np.einsum("uaw,ta->tuw", tensor, embedding) / math.sqrt(n_attr)
                values[f"connect.{k}.weight"] = per_type
                start += size
        assert start == len(flat)
    return {f"layers.{index}.{k}": v for k, v in values.items()}


@pytest.mark.parametrize("parity", ["natural", "both"])
def test_nequip_is_nequips(parity):
    file = dict(np.load(GOLDEN / f"nequip_{parity}.npz"))
    host = {
        "name": "nequip", "channels": 4, "n_layers": 3, "l_max": 2, "parity": parity == "both",
        "n_basis": 8, "radial_width": 8, "radial_depth": 1,
    }  # fmt: skip
    config = ModelConfig(
        host=host, elements=ELEMENTS, cutoff=CUTOFF, envelope="polynomial", polarization="none",
        dipole=False, n_neighbors=7.0,
    )  # fmt: skip
    model = PolarizedModel(config, torch.float64)
    peer = {k.removeprefix("model.func."): v for k, v in file.items()}
    embedding = peer["type_embed.embed_module.weight"]
    values = {
        "embedding.weight": embedding,
        "readout.weight": peer["per_atom_energy_readout.mlp_module.mlp.0.weight"],
    }
    inputs = [o3.Irrep("0e")]
    for index, layer in enumerate(model.host.layers):
        values |= nequip_layer_weights(peer, index, layer, inputs, embedding)
        inputs = layer.outputs
    set_weights(model.host, values)
    compare(model, file)


def test_convolution_is_e3nns_tensor_product():
    """All paths at once equal e3nn's own tensor product with the same weights."""
    inputs = [o3.Irrep("0e"), o3.Irrep("1o"), o3.Irrep("1e"), o3.Irrep("2e")]
    harmonics = [o3.Irrep("0e"), o3.Irrep("1o"), o3.Irrep("2e")]
    torch.manual_seed(0)
    x = torch.randn(5, 12, dtype=torch.float64)
    y = torch.randn(5, 9, dtype=torch.float64)
    for out in (o3.Irrep("0e"), o3.Irrep("1o"), o3.Irrep("2e"), o3.Irrep("2o")):
        found = path_matrices(inputs, harmonics, out)
        pairs = [
            (i, j) for i, a in enumerate(inputs) for j, b in enumerate(harmonics) if out in a * b
        ]
        assert len(found) == len(pairs) > 0
        for table, (i, j) in zip(found, pairs, strict=True):
            tp = o3.TensorProduct(
                [(1, ir) for ir in inputs], [(1, ir) for ir in harmonics], [(1, out)],
                [(i, j, 0, "uvu", False)], irrep_normalization="component",
            ).to(torch.float64)  # fmt: skip
            own = torch.einsum("ed,es,sqd->eq", x, y, table)
            torch.testing.assert_close(own, tp(x, y), rtol=1e-6, atol=1e-6)


def test_et_is_torchmd_nets():
    file = dict(np.load(GOLDEN / "et_torchmdnet.npz"))
    c, heads = 8, 2
    host = {"name": "et", "channels": c, "n_layers": 3, "n_basis": 6, "n_heads": heads}
    # The length of a vector is smoothed at zero, where the peer leaves the gradient out.
    host["epsilon"] = 1e-20
    config = ModelConfig(
        host=host, elements=ELEMENTS, cutoff=CUTOFF, polarization="none", dipole=False
    )
    names = {
        "embedding.weight": "embedding.weight",
        "neighbor_embedding.embedding.weight": "neighbor.weight",
    }
    for part in ("weight", "bias"):
        names[f"neighbor_embedding.distance_proj.{part}"] = f"filter.{part}"
        names[f"neighbor_embedding.combine.{part}"] = f"combine.{part}"
        names[f"out_norm.{part}"] = f"norm.{part}"
    inner = {
        "layernorm": "norm", "q_proj": "query", "k_proj": "key", "v_proj": "value",
        "dk_proj": "key_filter", "dv_proj": "value_filter", "vec_proj": "mix", "o_proj": "out",
        "vec1_proj": "length", "vec2_proj": "vector",
    }  # fmt: skip
    weights = {}
    for key, value in file.items():
        prefix, _, name = key.partition(".")
        if prefix == "representation" and name in names:
            weights[f"host.{names[name]}"] = value
        elif prefix == "representation":
            _, k, module, part = name.split(".")
            if module in ("v_proj", "dv_proj"):  # there the parts are inside of each head
                shape = value.shape[1:]
                value = value.reshape(heads, 3, c // heads, *shape).swapaxes(0, 1)
                value = value.reshape(3 * c, *shape)
            weights[f"host.layers.{k}.{inner[module]}.{part}"] = value
        elif prefix == "readout":
            _, k, *module, part = name.split(".")
            block = ("first", "second")[int(k)]
            own = inner.get(module[0]) or f"update.{module[-1]}"
            weights[f"host.{block}.{own}.{part}"] = value
    model = PolarizedModel(config, torch.float64)
    set_weights(model, weights)
    compare(model, file)


def test_tensornet_is_torchmd_nets():
    file = dict(np.load(GOLDEN / "tensornet_torchmdnet.npz"))
    host = {"name": "tensornet", "channels": 8, "n_layers": 2, "n_basis": 6}
    config = ModelConfig(
        host=host, elements=ELEMENTS, cutoff=CUTOFF, polarization="none", dipole=False
    )
    model = PolarizedModel(config, torch.float64)
    peer = {k.partition(".")[2]: v for k, v in file.items() if k.startswith("representation.")}
    first = {k.removeprefix("tensor_embedding."): v for k, v in peer.items() if "embedding" in k}
    weights = {"embedding.weight": first["emb.weight"]}
    weights["center.weight"], weights["neighbor.weight"] = np.split(first["emb2.weight"], 2, axis=1)
    weights["center.bias"] = first["emb2.bias"]
    for part in ("weight", "bias"):
        weights[f"radial.{part}"] = np.concatenate(
            [first[f"distance_proj{k}.{part}"] for k in (1, 2, 3)]
        )
        weights[f"norm.{part}"] = first[f"init_norm.{part}"]
        weights[f"out_norm.{part}"] = peer[f"out_norm.{part}"]
        weights[f"readout.0.{part}"] = peer[f"linear.{part}"]
        for k in (0, 1):
            weights[f"scale.{2 * k}.{part}"] = first[f"linears_scalar.{k}.{part}"]
            weights[f"readout.{2 + 2 * k}.{part}"] = file[
                f"readout.output_network.layers.{2 * k}.{part}"
            ]
            for m in range(3):
                key = f"layers.{k}.linears_scalar.{m}.{part}"
                weights[f"layers.{k}.radial.{2 * m}.{part}"] = peer[key]
    for m in range(3):
        weights[f"mix.maps.{m}.weight"] = first[f"linears_tensor.{m}.weight"]
        for k in (0, 1):
            for n, name in enumerate(("before", "after")):
                key = f"layers.{k}.linears_tensor.{3 * n + m}.weight"
                weights[f"layers.{k}.{name}.maps.{m}.weight"] = peer[key]
    set_weights(model, {f"host.{k}": v for k, v in weights.items()})
    compare(model, file)


def test_mace_is_mace_torchs():
    file = dict(np.load(GOLDEN / "mace_torch.npz"))
    c, n_types = 4, 3
    host = {
        "name": "mace", "channels": c, "n_layers": 2, "l_hidden": 1, "l_max": 2, "correlation": 3,
        "n_basis": 6, "radial_width": 8, "radial_depth": 2, "readout_width": 5,
    }  # fmt: skip
    config = ModelConfig(
        host=host,
        elements=ELEMENTS,
        cutoff=CUTOFF,
        envelope="polynomial",
        polarization="none",
        dipole=False,
        n_neighbors=5.0,
    )
    model = PolarizedModel(config, torch.float64)
    peer = {k.removeprefix("model."): v for k, v in file.items()}
    # The peer divides one-hot types by sqrt(n_types) and normalises silu by its second moment.
    silu = model.host.silu_norm / math.sqrt(2.0)
    embedding = peer["node_embedding.linear.weight"].reshape(n_types, c) / math.sqrt(n_types)
    weights = {"embedding.weight": embedding}
    for k, layer in enumerate(model.host.layers):
        own, other = f"layers.{k}", f"interactions.{k}"
        up = peer[f"{other}.linear_up.weight"].reshape(-1, c, c)
        for m, value in enumerate(up):
            weights[f"{own}.before.{m}.weight"] = value
        for m in range(3):
            value = peer[f"{other}.conv_tp_weights.layer{m}.weight"]
            weights[f"{own}.convolution.radial.{2 * m}.weight"] = value * (silu if m else 1.0)
        sizes = np.cumsum([p * c * c for p in layer.convolution.paths])[:-1]
        for m, value in enumerate(np.split(peer[f"{other}.linear.weight"], sizes)):
            weights[f"{own}.after.{m}.weight"] = value.reshape(-1, c)
        skip = peer[f"{other}.skip_tp.weight"].reshape(c, n_types, c).swapaxes(0, 1)
        weights[f"{own}.connect.0.weight"] = skip / math.sqrt(n_types)
        for m, value in enumerate(peer[f"products.{k}.linear.weight"].reshape(-1, c, c)):
            weights[f"{own}.mix.{m}.weight"] = value
            inner = f"products.{k}.symmetric_contractions.contractions.{m}"
            for t, name in enumerate(("weights_max", "weights.0", "weights.1")):
                weights[f"{own}.products.{m}.terms.{t}.weight"] = peer[f"{inner}.{name}"]
    weights["readouts.0.weight"] = peer["readouts.0.linear.weight"].reshape(c, 1)
    weights["last.weight"] = peer["readouts.1.linear_1.weight"].reshape(c, 5)
    weights["out.weight"] = peer["readouts.1.linear_2.weight"].reshape(5, 1)
    set_weights(model, {f"host.{k}": v for k, v in weights.items()})
    compare(model, file)


def egnn_by_the_paper(model, numbers, positions, envelope):
    """Readouts of EGNN written as loops over equations 3 to 8, without a library's help."""

    def silu(x):
        return x / (1 + np.exp(-x))

    def linear(layer, x):
        bias = 0.0 if layer.bias is None else layer.bias.detach().numpy()
        return layer.weight.detach().numpy() @ x + bias

    host = model.host
    h = [host.embedding.weight[(1, 6, 8).index(z)].detach().numpy() for z in numbers]
    for layer in host.layers:
        new = []
        for i, x_i in enumerate(positions):
            total = np.zeros_like(h[i])
            for j, x_j in enumerate(positions):
                r = np.linalg.norm(x_i - x_j)
                if i == j or r >= CUTOFF:
                    continue
                first = linear(layer.center, h[i]) + linear(layer.neighbor, h[j])
                first = first + linear(layer.distance, np.array([r**2]))
                m = silu(linear(layer.message[1], silu(first)))
                gate = 1 / (1 + np.exp(-linear(layer.inference[0], m)))
                total = total + envelope(r) * gate * m
            hidden = silu(linear(layer.update[0], np.concatenate([h[i], total])))
            new.append(h[i] + linear(layer.update[2], hidden))
        h = new
    return [linear(host.readout[2], silu(linear(host.readout[0], x)))[0] for x in h]


def test_egnn_is_the_papers():
    """The authors' code is no package, so the equations are written down a second time."""
    host = {"name": "egnn", "channels": 8, "n_layers": 3}
    config = ModelConfig(
        host=host, elements=ELEMENTS, cutoff=CUTOFF, polarization="none", dipole=False
    )
    torch.manual_seed(2)
    model = PolarizedModel(config, torch.float64)
    file = np.load(GOLDEN / "painn_schnetpack.npz")
    for positions in file["positions"]:
        energy, _ = evaluate(model, file["numbers"], positions)
        rows = egnn_by_the_paper(
            model, file["numbers"], positions, lambda r: 0.5 * (1 + np.cos(np.pi * r / CUTOFF))
        )
        assert energy == pytest.approx(sum(rows), rel=1e-10)
