// Operators of torch around atoms.h, for the CPU. Their derivatives are in atoms.py.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

#include "atoms.h"
#include "tensors.h"

namespace {

using at::Tensor;
using npcalc::in_precision_of;

void check(const char* name, const Tensor& t, at::IntArrayRef expected) {
  TORCH_CHECK(t.sizes() == expected, name, " has shape ", t.sizes(), ", expected ", expected);
}

// Calls work with the perceptron of packed weights, which leads from some inputs to some outputs.
template <typename F>
void with_perceptron(const Tensor& weights, int64_t inputs, int64_t hidden, int64_t outputs, const F& work) {
  TORCH_CHECK(hidden % 16 == 0, "perceptron: hidden values must be a multiple of 16, got ", hidden);
  const Tensor w = weights.contiguous();
  in_precision_of(w, [&](auto zero) {
    using T = decltype(zero);
    using P = npcalc::Perceptron<T>;
    check("perceptron: weights", w, {P::size(inputs, hidden, outputs)});
    work(P(w.const_data_ptr<T>(), int(inputs), int(hidden), int(outputs)), zero);
  });
}

std::tuple<Tensor, Tensor> perceptron(const Tensor& x, const Tensor& weights, int64_t hidden, int64_t outputs) {
  const Tensor from = x.stride(1) == 1 ? x : x.contiguous();
  const int64_t n = x.size(0);
  Tensor y = at::empty({n, outputs}, x.options()), h = at::empty({n, hidden}, x.options());
  with_perceptron(weights, x.size(1), hidden, outputs, [&](const auto& p, auto zero) {
    using T = decltype(zero);
    npcalc::perceptron(p, n, from.const_data_ptr<T>(), from.stride(0), y.data_ptr<T>(), h.data_ptr<T>(),
                       at::get_num_threads());
  });
  return {y, h};
}

Tensor perceptron_backward(const Tensor& by_y, const Tensor& h, const Tensor& weights, int64_t inputs) {
  const int64_t n = h.size(0);
  check("perceptron_backward: by_y", by_y, {n, by_y.size(1)});
  const Tensor by = by_y.contiguous(), hidden = h.contiguous();
  Tensor by_x = at::empty({n, inputs}, h.options());
  with_perceptron(weights, inputs, h.size(1), by_y.size(1), [&](const auto& p, auto zero) {
    using T = decltype(zero);
    npcalc::perceptron_backward(p, n, by.const_data_ptr<T>(), hidden.const_data_ptr<T>(), by_x.data_ptr<T>(),
                                at::get_num_threads());
  });
  return by_x;
}

// Calls work with the update block of packed weights.
template <typename F>
void with_update(const Tensor& weights, int64_t channels, double epsilon, const F& work) {
  TORCH_CHECK(channels % 16 == 0, "painn_update: channels must be a multiple of 16, got ", channels);
  const Tensor w = weights.contiguous();
  in_precision_of(w, [&](auto zero) {
    using T = decltype(zero);
    check("painn_update: weights", w, {npcalc::Update<T>::size(int(channels))});
    work(npcalc::Update<T>(w.const_data_ptr<T>(), int(channels), T(epsilon)), zero);
  });
}

std::tuple<Tensor, Tensor> painn_update(const Tensor& x, const Tensor& ds, const Tensor& dv, const Tensor& weights,
                                        double epsilon) {
  const int64_t n = ds.size(0), c = ds.size(1);
  check("painn_update: x", x, {n, 4 * c});
  check("painn_update: dv", dv, {n, 3, c});
  const Tensor from = x.contiguous(), s = ds.contiguous(), v = dv.contiguous();
  Tensor to = at::empty({n, 4 * c}, x.options()), kept = at::empty({n, 9 * c}, x.options());
  with_update(weights, c, epsilon, [&](const auto& update, auto zero) {
    using T = decltype(zero);
    update.forward(n, from.const_data_ptr<T>(), s.const_data_ptr<T>(), v.const_data_ptr<T>(), to.data_ptr<T>(),
                   kept.data_ptr<T>(), at::get_num_threads());
  });
  return {to, kept};
}

Tensor painn_update_backward(const Tensor& by, const Tensor& kept, const Tensor& weights, double epsilon) {
  const int64_t n = by.size(0), c = by.size(1) / 4;
  check("painn_update_backward: kept", kept, {n, 9 * c});
  const Tensor from = by.contiguous(), keep = kept.contiguous();
  Tensor by_x = at::empty({n, 4 * c}, by.options());
  with_update(weights, c, epsilon, [&](const auto& update, auto zero) {
    using T = decltype(zero);
    update.backward(n, from.const_data_ptr<T>(), keep.const_data_ptr<T>(), by_x.data_ptr<T>(), at::get_num_threads());
  });
  return by_x;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(npcalc, library) {
  // x (N, inputs) and weights packed by npcalc.ops.atoms -> y (N, outputs), h (N, hidden)
  library.def("perceptron(Tensor x, Tensor weights, int hidden, int outputs) -> (Tensor, Tensor)");
  library.def("perceptron_backward(Tensor by_y, Tensor h, Tensor weights, int inputs) -> Tensor");
  // x (N, 4 C), ds (N, C), dv (N, 3, C) -> new x, and what its gradient needs (N, 9 C)
  library.def("painn_update(Tensor x, Tensor ds, Tensor dv, Tensor weights, float epsilon) -> (Tensor, Tensor)");
  library.def("painn_update_backward(Tensor by, Tensor kept, Tensor weights, float epsilon) -> Tensor");
}

TORCH_LIBRARY_IMPL(npcalc, CPU, library) {
  library.impl("perceptron", perceptron);
  library.impl("perceptron_backward", perceptron_backward);
  library.impl("painn_update", painn_update);
  library.impl("painn_update_backward", painn_update_backward);
}
