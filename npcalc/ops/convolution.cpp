// Operators of torch around convolution.h, for the CPU. Their derivatives are in convolution.py.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <tuple>

#include "convolution.h"
#include "tensors.h"

namespace {

using at::Tensor;

// Arguments that the operators share, in the order of their schema, contiguous and checked.
struct Arguments {
  Tensor w, y, x, center, neighbor, entries, values, paths;

  Arguments(const Tensor& w, const Tensor& y, const Tensor& x, const Tensor& center, const Tensor& neighbor,
            const Tensor& entries, const Tensor& values, const Tensor& paths)
      : w(w.contiguous()), y(y.contiguous()), x(x.contiguous()), center(center.contiguous()),
        neighbor(neighbor.contiguous()), entries(entries.contiguous()), values(values.contiguous()),
        paths(paths.contiguous()) {
    TORCH_CHECK(x.dim() == 3 && x.size(2) % 16 == 0, "convolution: features must be (points, components, channels) ",
                "with channels a multiple of 16, got ", x.sizes());
    const int64_t n_paths = n_q() ? this->paths.const_data_ptr<int64_t>()[n_q() - 1] + 1 : 0, n_edges = center.size(0);
    check("weights", w, {n_edges, n_paths * x.size(2)});
    check("harmonics", y, {n_edges, y.size(-1)});
    check("neighbor", neighbor, {n_edges});
    const int64_t* entry = this->entries.const_data_ptr<int64_t>();
    for (int64_t k = 0; k < entries.size(0); ++k, entry += 3)
      TORCH_CHECK(entry[0] < n_q() && entry[1] < x.size(1) && entry[2] < y.size(1), "convolution: the table has the ",
                  "components ", entry[0], ", ", entry[1], ", ", entry[2], ", but there are only ", n_q(), ", ",
                  x.size(1), ", ", y.size(1));
  }

  static void check(const char* name, const Tensor& t, at::IntArrayRef expected) {
    TORCH_CHECK(t.sizes() == expected, "convolution: ", name, " have shape ", t.sizes(), ", expected ", expected);
  }
  void check_result(const char* name, const Tensor& g) const { check(name, g, {n_points(), n_q(), x.size(2)}); }

  int64_t n_points() const { return x.size(0); }
  int64_t n_q() const { return paths.size(0); }
  Tensor zero_result() const { return at::zeros({n_points(), n_q(), x.size(2)}, x.options()); }

  // Calls work(arguments of S, threads).
  template <typename F>
  void call(const F& work) const {
    npcalc::in_precision_of(x, [&](auto zero) {
      using T = decltype(zero);
      const npcalc::Coefficients<T> table(entries.const_data_ptr<int64_t>(), values.const_data_ptr<T>(),
                                          entries.size(0), paths.const_data_ptr<int64_t>(), paths.size(0));
      const npcalc::Edges<T> s{table, w.size(0), int(y.size(1)), int(x.size(1)), int(x.size(2)),
                               center.const_data_ptr<int64_t>(), neighbor.const_data_ptr<int64_t>(),
                               w.const_data_ptr<T>(), y.const_data_ptr<T>(), x.const_data_ptr<T>()};
      work(s, at::get_num_threads());
    });
  }
};

#define NPCALC_PARAMETERS                                                                                  \
  const Tensor &w, const Tensor &y, const Tensor &x, const Tensor &center, const Tensor &neighbor,         \
      const Tensor &entries, const Tensor &values, const Tensor &paths
#define NPCALC_NAMES w, y, x, center, neighbor, entries, values, paths

Tensor convolution(NPCALC_PARAMETERS) {
  const Arguments given(NPCALC_NAMES);
  Tensor out = given.zero_result();
  given.call([&](const auto& s, int threads) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(s.w)>>;
    npcalc::convolution(s, given.n_points(), out.data_ptr<T>(), threads);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& g, NPCALC_PARAMETERS) {
  const Arguments given(NPCALC_NAMES);
  given.check_result("derivatives", g);
  const Tensor from = g.contiguous();
  Tensor by_w = at::empty_like(given.w), by_y = at::empty_like(given.y), by_x = at::zeros_like(given.x);
  given.call([&](const auto& s, int threads) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(s.w)>>;
    const npcalc::EdgeGradient<T> by{by_w.data_ptr<T>(), by_y.data_ptr<T>(), by_x.data_ptr<T>()};
    npcalc::convolution_backward(s, from.const_data_ptr<T>(), given.n_points(), by, threads);
  });
  return {by_w, by_y, by_x};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> convolution_second_backward(const Tensor& along_w, const Tensor& along_y,
                                                                       const Tensor& along_x, const Tensor& g,
                                                                       NPCALC_PARAMETERS) {
  const Arguments given(NPCALC_NAMES);
  given.check_result("derivatives", g);
  Arguments::check("directions of weights", along_w, w.sizes());
  Arguments::check("directions of harmonics", along_y, y.sizes());
  Arguments::check("directions of features", along_x, x.sizes());
  const Tensor from = g.contiguous(), a = along_w.contiguous(), b = along_y.contiguous(), c = along_x.contiguous();
  Tensor by_g = at::zeros_like(from), by_w = at::empty_like(given.w), by_y = at::empty_like(given.y),
         by_x = at::zeros_like(given.x);
  given.call([&](const auto& s, int threads) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(s.w)>>;
    const npcalc::EdgeGradient<const T> along{a.const_data_ptr<T>(), b.const_data_ptr<T>(), c.const_data_ptr<T>()};
    const npcalc::EdgeGradient<T> by{by_w.data_ptr<T>(), by_y.data_ptr<T>(), by_x.data_ptr<T>()};
    npcalc::convolution_second(s, from.const_data_ptr<T>(), along, given.n_points(), by_g.data_ptr<T>(), by, threads);
  });
  return {by_g, by_w, by_y, by_x};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(npcalc, library) {
  // w (E, P C), y (E, H), x (N, D, C), center and neighbor (E,), entries (n, 3) of q, d and h in this order,
  // values (n,), path of each q (Q,) -> (N, Q, C)
  const std::string shared =
      "Tensor w, Tensor y, Tensor x, Tensor center, Tensor neighbor, Tensor entries, Tensor values, Tensor paths) -> ";
  library.def(("convolution(" + shared + "Tensor").c_str());
  library.def(("convolution_backward(Tensor g, " + shared + "(Tensor, Tensor, Tensor)").c_str());
  library.def(("convolution_second_backward(Tensor along_w, Tensor along_y, Tensor along_x, Tensor g, " + shared +
               "(Tensor, Tensor, Tensor, Tensor)")
                  .c_str());
}

TORCH_LIBRARY_IMPL(npcalc, CPU, library) {
  library.impl("convolution", convolution);
  library.impl("convolution_backward", convolution_backward);
  library.impl("convolution_second_backward", convolution_second_backward);
}
