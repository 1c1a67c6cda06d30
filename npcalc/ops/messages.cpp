// Operators of torch around messages.h, for the CPU.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "messages.h"

namespace {

using at::Tensor;

// Arguments of both operators in the order of the schema; contiguous tensors are kept alive here.
struct Arguments {
  Tensor edges, d, phi, v, center, neighbor, reverse, bias, even, odd, even_back, odd_back;
  double cutoff, softening;
  int64_t n_basis, power;
  bool still;

  template <typename T>
  npcalc::Problem<T> problem() const {
    npcalc::Problem<T> g;
    g.n_atoms = phi.size(0);
    g.n_edges = edges.size(0);
    g.points = int(d.size(1));
    g.basis = int(n_basis);
    g.channels = int(v.size(2));
    g.power = int(power);
    g.still = still;
    g.cutoff = T(cutoff);
    g.softening2 = T(softening * softening);
    g.edges = edges.const_data_ptr<T>();
    g.d = d.const_data_ptr<T>();
    g.phi = phi.const_data_ptr<T>();
    g.v = v.const_data_ptr<T>();
    g.center = center.const_data_ptr<int64_t>();
    g.neighbor = neighbor.const_data_ptr<int64_t>();
    g.reverse = reverse.const_data_ptr<int64_t>();
    g.bias = bias.const_data_ptr<T>();
    g.even = even.const_data_ptr<T>();
    g.odd = odd.const_data_ptr<T>();
    g.even_back = even_back.const_data_ptr<T>();
    g.odd_back = odd_back.const_data_ptr<T>();
    return g;
  }

  void check() const {
    TORCH_CHECK(v.size(2) % 16 == 0, "pair_messages: channels must be a multiple of 16, got ", v.size(2));
    const int64_t columns = (d.size(1) ? 4 : 3) * v.size(2);
    TORCH_CHECK(phi.size(1) == columns, "pair_messages: phi has ", phi.size(1), " columns, expected ", columns);
  }
};

#define NPCALC_PARAMETERS                                                                                      \
  const Tensor &edges, const Tensor &d, const Tensor &phi, const Tensor &v, const Tensor &center,              \
      const Tensor &neighbor, const Tensor &reverse, const Tensor &bias, const Tensor &even, const Tensor &odd, \
      const Tensor &even_back, const Tensor &odd_back, double cutoff, double softening, int64_t n_basis,       \
      int64_t power, bool still
#define NPCALC_ARGUMENTS                                                                                       \
  Arguments {                                                                                                  \
    edges.contiguous(), d.contiguous(), phi.contiguous(), v.contiguous(), center.contiguous(),                 \
        neighbor.contiguous(), reverse.contiguous(), bias.contiguous(), even.contiguous(), odd.contiguous(),   \
        even_back.contiguous(), odd_back.contiguous(), cutoff, softening, n_basis, power, still                \
  }

std::tuple<Tensor, Tensor> pair_messages(NPCALC_PARAMETERS) {
  const Arguments given = NPCALC_ARGUMENTS;
  given.check();
  Tensor ds = at::zeros({v.size(0), v.size(2)}, v.options()), dv = at::zeros(v.sizes(), v.options());
  const int threads = at::get_num_threads();
  if (v.scalar_type() == at::kFloat)
    npcalc::messages(given.problem<float>(), ds.data_ptr<float>(), dv.data_ptr<float>(), threads);
  else
    npcalc::messages(given.problem<double>(), ds.data_ptr<double>(), dv.data_ptr<double>(), threads);
  return {ds, dv};
}

template <typename T>
void run_backward(const Arguments& given, const Tensor& by_ds, const Tensor& by_dv, Tensor* to) {
  const npcalc::Gradient<T> gradient{to[0].data_ptr<T>(), to[1].data_ptr<T>(), to[2].data_ptr<T>(),
                                     to[3].data_ptr<T>()};
  npcalc::messages_backward(given.problem<T>(), by_ds.const_data_ptr<T>(), by_dv.const_data_ptr<T>(), gradient,
                            at::get_num_threads());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pair_messages_backward(const Tensor& by_ds, const Tensor& by_dv,
                                                                  NPCALC_PARAMETERS) {
  const Arguments given = NPCALC_ARGUMENTS;
  given.check();
  const Tensor s = by_ds.contiguous(), w = by_dv.contiguous();
  Tensor to[4] = {at::zeros(edges.sizes(), v.options()), at::zeros(d.sizes(), v.options()),
                  at::zeros(phi.sizes(), v.options()), at::zeros(v.sizes(), v.options())};
  if (v.scalar_type() == at::kFloat)
    run_backward<float>(given, s, w, to);
  else
    run_backward<double>(given, s, w, to);
  return {to[0], to[1], to[2], to[3]};
}

Tensor reverse_edges(const Tensor& edges, const Tensor& center, const Tensor& neighbor) {
  const Tensor r = edges.contiguous(), i = center.contiguous(), j = neighbor.contiguous();
  Tensor reverse = at::empty({r.size(0)}, i.options());
  if (r.scalar_type() == at::kFloat)
    npcalc::reverse_edges(r.const_data_ptr<float>(), i.const_data_ptr<int64_t>(), j.const_data_ptr<int64_t>(),
                          r.size(0), reverse.data_ptr<int64_t>());
  else
    npcalc::reverse_edges(r.const_data_ptr<double>(), i.const_data_ptr<int64_t>(), j.const_data_ptr<int64_t>(),
                          r.size(0), reverse.data_ptr<int64_t>());
  return reverse;
}

}  // namespace

TORCH_LIBRARY(npcalc, library) {
  // edges (E, 3), d (N, K, 3), phi (N, (3 or 4) C), v (N, 3, C), center, neighbor, reverse (E,), bias and weights
  // packed by npcalc.ops.painn -> messages (N, C) and (N, 3, C)
  const std::string shared =
      "Tensor edges, Tensor d, Tensor phi, Tensor v, Tensor center, Tensor neighbor, Tensor reverse, Tensor bias, "
      "Tensor even, Tensor odd, Tensor even_back, Tensor odd_back, float cutoff, float softening, int n_basis, "
      "int power, bool still)";
  library.def(("pair_messages(" + shared + " -> (Tensor, Tensor)").c_str());
  library.def(("pair_messages_backward(Tensor by_ds, Tensor by_dv, " + shared + " -> (Tensor, Tensor, Tensor, Tensor)").c_str());
  library.def("reverse_edges(Tensor edges, Tensor center, Tensor neighbor) -> Tensor");
}

TORCH_LIBRARY_IMPL(npcalc, CPU, library) {
  library.impl("pair_messages", pair_messages);
  library.impl("pair_messages_backward", pair_messages_backward);
  library.impl("reverse_edges", reverse_edges);
}
