// Operators of torch around messages.h and second.h, for the CPU, with their derivatives.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "second.h"
#include "tensors.h"

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Arguments that the operators share, in the order of their schema.
#define NPCALC_PARAMETERS                                                                                      \
  const Tensor &edges, const Tensor &d, const Tensor &phi, const Tensor &v, const Tensor &center,              \
      const Tensor &neighbor, const Tensor &reverse, const Tensor &bias, const Tensor &even, const Tensor &odd, \
      const Tensor &even_back, const Tensor &odd_back, double cutoff, double softening, int64_t n_basis,       \
      int64_t power, int64_t heads, bool still, bool relative, bool products
#define NPCALC_TENSORS edges, d, phi, v, center, neighbor, reverse, bias, even, odd, even_back, odd_back
#define NPCALC_NAMES NPCALC_TENSORS, cutoff, softening, n_basis, power, heads, still, relative, products

// The same as they are stored for a derivative.
struct Stored {
  variable_list t;
  double cutoff, softening;
  int64_t n_basis, power, heads;
  bool still, relative, products;

  static constexpr size_t N = 12, NUMBERS = 8;  // tensors, and arguments after them

  static void save(AutogradContext* context, variable_list before, NPCALC_PARAMETERS) {
    before.insert(before.end(), {NPCALC_TENSORS});
    context->save_for_backward(std::move(before));
    context->saved_data["cutoff"] = cutoff;
    context->saved_data["softening"] = softening;
    context->saved_data["n_basis"] = n_basis;
    context->saved_data["power"] = power;
    context->saved_data["heads"] = heads;
    context->saved_data["still"] = still;
    context->saved_data["relative"] = relative;
    context->saved_data["products"] = products;
  }

  explicit Stored(AutogradContext* context)
      : t(context->get_saved_variables()), cutoff(context->saved_data["cutoff"].toDouble()),
        softening(context->saved_data["softening"].toDouble()), n_basis(context->saved_data["n_basis"].toInt()),
        power(context->saved_data["power"].toInt()),
        heads(context->saved_data["heads"].toInt()), still(context->saved_data["still"].toBool()),
        relative(context->saved_data["relative"].toBool()), products(context->saved_data["products"].toBool()) {}

  // Calls an operator with tensors in front of the shared arguments.
  template <typename F, typename... A>
  auto call(const F& operation, const A&... front) const {
    const Tensor* x = t.data() + t.size() - N;
    return operation.call(front..., x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], cutoff,
                          softening, n_basis, power, heads, still, relative, products);
  }
};

// Contiguous arguments, kept alive while pointers to them are used.
struct Arguments {
  Tensor edges, d, phi, v, center, neighbor, reverse, bias, even, odd, even_back, odd_back;
  double cutoff, softening;
  int64_t n_basis, power, heads;
  bool still, relative, products;

  explicit Arguments(NPCALC_PARAMETERS)
      : edges(edges.contiguous()), d(d.contiguous()), phi(phi.contiguous()), v(v.contiguous()),
        center(center.contiguous()), neighbor(neighbor.contiguous()), reverse(reverse.contiguous()),
        bias(bias.contiguous()), even(even.contiguous()), odd(odd.contiguous()), even_back(even_back.contiguous()),
        odd_back(odd_back.contiguous()), cutoff(cutoff), softening(softening), n_basis(n_basis), power(power),
        heads(heads), still(still), relative(relative), products(products) {
    TORCH_CHECK(heads == 1 || (heads > 1 && heads == d.size(1) && !still), "pair_messages: ", heads, " heads of ", d.size(1),
                " points that ", still ? "rest" : "move");
    TORCH_CHECK(!products || !still, "pair_messages: products with shifts of points that rest");
    TORCH_CHECK(v.size(2) % 16 == 0 && v.size(2) % (4 * heads) == 0, "pair_messages: channels must be a multiple of 16, "
                "those of a head of 4, got ", v.size(2), " for ", heads, " heads");
    const int64_t columns = (d.size(1) ? 4 : 3) * v.size(2);
    TORCH_CHECK(phi.size(1) == columns, "pair_messages: phi has ", phi.size(1), " columns, expected ", columns);
  }

  template <typename T>
  npcalc::Problem<T> problem() const {
    npcalc::Problem<T> g;
    g.n_atoms = phi.size(0);
    g.n_edges = edges.size(0);
    g.points = int(d.size(1));
    g.basis = int(n_basis);
    g.channels = int(v.size(2));
    g.power = int(power);
    g.heads = int(heads);
    g.still = still;
    g.relative = relative;
    g.products = products;
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
    const int64_t n_even = g.n_even() * n_basis, n_odd = g.n_odd() * n_basis;
    TORCH_CHECK(even.size(2) == n_even && odd.size(2) == n_odd, "pair_messages: even and odd weights have ", even.size(2),
                " and ", odd.size(2), " rows, expected ", n_even, " and ", n_odd);
    return g;
  }
};

std::tuple<Tensor, Tensor> pair_messages(NPCALC_PARAMETERS) {
  const Arguments given(NPCALC_NAMES);
  Tensor ds = at::zeros({v.size(0), v.size(2)}, v.options()), dv = at::zeros_like(given.v);
  npcalc::in_precision_of(given.v, [&](auto zero) {
    using T = decltype(zero);
    npcalc::messages(given.problem<T>(), ds.data_ptr<T>(), dv.data_ptr<T>(), at::get_num_threads());
  });
  return {ds, dv};
}

// Gradient by edges, d, phi and v and, if wanted, by bias, even and odd.
variable_list gradient(const Tensor& by_ds, const Tensor& by_dv, const Arguments& given, bool with_weights) {
  const Tensor s = by_ds.contiguous(), x = by_dv.contiguous();
  variable_list to = {at::zeros_like(given.edges), at::zeros_like(given.d), at::zeros_like(given.phi), at::zeros_like(given.v)};
  if (with_weights)
    for (const Tensor* t : {&given.bias, &given.even, &given.odd}) to.push_back(at::zeros_like(*t));
  npcalc::in_precision_of(given.v, [&](auto zero) {
    using T = decltype(zero);
    const npcalc::Gradient<T> gradient{to[0].data_ptr<T>(), to[1].data_ptr<T>(), to[2].data_ptr<T>(),
                                       to[3].data_ptr<T>()};
    npcalc::Weights<T> weights{nullptr, nullptr, nullptr};
    if (with_weights) weights = {to[4].data_ptr<T>(), to[5].data_ptr<T>(), to[6].data_ptr<T>()};
    npcalc::messages_backward(given.problem<T>(), s.const_data_ptr<T>(), x.const_data_ptr<T>(), gradient, weights,
                              at::get_num_threads());
  });
  return to;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pair_messages_backward(const Tensor& by_ds, const Tensor& by_dv,
                                                                  NPCALC_PARAMETERS) {
  const variable_list to = gradient(by_ds, by_dv, Arguments(NPCALC_NAMES), false);
  return {to[0], to[1], to[2], to[3]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pair_messages_weight_backward(
    const Tensor& by_ds, const Tensor& by_dv, NPCALC_PARAMETERS) {
  const variable_list to = gradient(by_ds, by_dv, Arguments(NPCALC_NAMES), true);
  return {to[0], to[1], to[2], to[3], to[4], to[5], to[6]};
}

// Gradient of pair_messages_backward, whose results are weighted by the first four arguments, by by_ds, by_dv, d,
// phi, v, bias, even and odd.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pair_messages_second_backward(
    const Tensor& along_edges, const Tensor& along_d, const Tensor& along_phi, const Tensor& along_v,
    const Tensor& by_ds, const Tensor& by_dv, NPCALC_PARAMETERS) {
  const Arguments given(NPCALC_NAMES);
  const Tensor c[4] = {along_edges.contiguous(), along_d.contiguous(), along_phi.contiguous(), along_v.contiguous()};
  const Tensor s = by_ds.contiguous(), x = by_dv.contiguous();
  Tensor to[8] = {at::zeros_like(s), at::zeros_like(x), at::zeros_like(given.d), at::zeros_like(given.phi), at::zeros_like(given.v),
                  at::zeros_like(given.bias), at::zeros_like(given.even), at::zeros_like(given.odd)};
  npcalc::in_precision_of(given.v, [&](auto zero) {
    using T = decltype(zero);
    const npcalc::Direction<T> along{c[0].const_data_ptr<T>(), c[1].const_data_ptr<T>(), c[2].const_data_ptr<T>(),
                                     c[3].const_data_ptr<T>()};
    const npcalc::SecondGradient<T> gradient{to[0].data_ptr<T>(), to[1].data_ptr<T>(), to[2].data_ptr<T>(),
                                             to[3].data_ptr<T>(), to[4].data_ptr<T>()};
    const npcalc::Weights<T> weights{to[5].data_ptr<T>(), to[6].data_ptr<T>(), to[7].data_ptr<T>()};
    npcalc::messages_second(given.problem<T>(), along, s.const_data_ptr<T>(), x.const_data_ptr<T>(), gradient, weights,
                            at::get_num_threads());
  });
  return {to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7]};
}

Tensor reverse_edges(const Tensor& edges, const Tensor& center, const Tensor& neighbor, double cutoff) {
  const Tensor r = edges.contiguous(), i = center.contiguous(), j = neighbor.contiguous();
  Tensor reverse = at::empty({r.size(0)}, i.options());
  npcalc::in_precision_of(r, [&](auto zero) {
    using T = decltype(zero);
    npcalc::reverse_edges(r.const_data_ptr<T>(), i.const_data_ptr<int64_t>(), j.const_data_ptr<int64_t>(), r.size(0),
                          T(cutoff), reverse.data_ptr<int64_t>());
  });
  return reverse;
}

template <typename F>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

// Derivatives. An undefined gradient says that there is none.

struct Messages : torch::autograd::Function<Messages> {
  static variable_list forward(AutogradContext* context, NPCALC_PARAMETERS) {
    static const auto operation = find_operator<decltype(pair_messages)>("npcalc::pair_messages");
    at::AutoDispatchBelowADInplaceOrView guard;
    Stored::save(context, {}, NPCALC_NAMES);
    const auto [ds, dv] = operation.call(NPCALC_NAMES);
    return {ds, dv};
  }

  static variable_list backward(AutogradContext* context, const variable_list& by) {
    static const auto plain = find_operator<decltype(pair_messages_backward)>("npcalc::pair_messages_backward");
    static const auto whole =
        find_operator<decltype(pair_messages_weight_backward)>("npcalc::pair_messages_weight_backward");
    const Stored given(context);
    variable_list found(Stored::N + Stored::NUMBERS);
    if (context->needs_input_grad(7) || context->needs_input_grad(8) || context->needs_input_grad(9))
      std::tie(found[0], found[1], found[2], found[3], found[7], found[8], found[9]) = given.call(whole, by[0], by[1]);
    else
      std::tie(found[0], found[1], found[2], found[3]) = given.call(plain, by[0], by[1]);
    return found;
  }
};

struct MessagesBackward : torch::autograd::Function<MessagesBackward> {
  static variable_list forward(AutogradContext* context, const Tensor& by_ds, const Tensor& by_dv, NPCALC_PARAMETERS) {
    static const auto operation = find_operator<decltype(pair_messages_backward)>("npcalc::pair_messages_backward");
    at::AutoDispatchBelowADInplaceOrView guard;
    Stored::save(context, {by_ds, by_dv}, NPCALC_NAMES);
    const auto [r, d_, phi_, v_] = operation.call(by_ds, by_dv, NPCALC_NAMES);
    return {r, d_, phi_, v_};
  }

  static variable_list backward(AutogradContext* context, const variable_list& along) {
    static const auto operation =
        find_operator<decltype(pair_messages_second_backward)>("npcalc::pair_messages_second_backward");
    TORCH_CHECK(!context->needs_input_grad(2),
                "pair_messages has no second derivatives by edges: use the network without operators");
    const Stored given(context);
    variable_list found(2 + Stored::N + Stored::NUMBERS);
    std::tie(found[0], found[1], found[3], found[4], found[5], found[9], found[10], found[11]) =
        given.call(operation, along[0], along[1], along[2], along[3], given.t[0], given.t[1]);
    return found;
  }
};

// An operator with no derivative of its own; asking for one is an error and not zero.
template <typename F, const char* NAME>
struct Last : torch::autograd::Function<Last<F, NAME>> {
  template <typename... A>
  static variable_list forward(AutogradContext*, const A&... arguments) {
    static const auto operation = find_operator<F>(NAME);
    at::AutoDispatchBelowADInplaceOrView guard;
    return std::apply([](const auto&... t) { return variable_list{t...}; }, operation.call(arguments...));
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(false, NAME, " has no derivatives: they would be third ones, or second ones taken together with first "
                             "ones by the weights; ask for the gradient by edges alone first");
  }
};

constexpr char WEIGHT_BACKWARD[] = "npcalc::pair_messages_weight_backward";
constexpr char SECOND_BACKWARD[] = "npcalc::pair_messages_second_backward";

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> last_weight_backward(
    const Tensor& by_ds, const Tensor& by_dv, NPCALC_PARAMETERS) {
  const variable_list x =
      Last<decltype(pair_messages_weight_backward), WEIGHT_BACKWARD>::apply(by_ds, by_dv, NPCALC_NAMES);
  return {x[0], x[1], x[2], x[3], x[4], x[5], x[6]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> last_second_backward(
    const Tensor& along_edges, const Tensor& along_d, const Tensor& along_phi, const Tensor& along_v,
    const Tensor& by_ds, const Tensor& by_dv, NPCALC_PARAMETERS) {
  const variable_list x = Last<decltype(pair_messages_second_backward), SECOND_BACKWARD>::apply(
      along_edges, along_d, along_phi, along_v, by_ds, by_dv, NPCALC_NAMES);
  return {x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]};
}

std::tuple<Tensor, Tensor> differentiable_messages(NPCALC_PARAMETERS) {
  const variable_list found = Messages::apply(NPCALC_NAMES);
  return {found[0], found[1]};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> differentiable_backward(const Tensor& by_ds, const Tensor& by_dv,
                                                                   NPCALC_PARAMETERS) {
  const variable_list found = MessagesBackward::apply(by_ds, by_dv, NPCALC_NAMES);
  return {found[0], found[1], found[2], found[3]};
}

}  // namespace

TORCH_LIBRARY(npcalc, library) {
  // edges (E, 3), d (N, K, 3), phi (N, (3 or 4) C), v (N, 3, C), center, neighbor, reverse (E,), bias and weights
  // packed by npcalc.ops.painn -> messages (N, C) and (N, 3, C)
  const std::string shared =
      "Tensor edges, Tensor d, Tensor phi, Tensor v, Tensor center, Tensor neighbor, Tensor reverse, Tensor bias, "
      "Tensor even, Tensor odd, Tensor even_back, Tensor odd_back, float cutoff, float softening, int n_basis, "
      "int power, int heads, bool still, bool relative, bool products) -> (";
  const std::string by = "Tensor by_ds, Tensor by_dv, ", four = "Tensor, Tensor, Tensor, Tensor";
  library.def(("pair_messages(" + shared + "Tensor, Tensor)").c_str());
  library.def(("pair_messages_backward(" + by + shared + four + ")").c_str());
  library.def(("pair_messages_weight_backward(" + by + shared + four + ", Tensor, Tensor, Tensor)").c_str());
  library.def(("pair_messages_second_backward(Tensor along_edges, Tensor along_d, Tensor along_phi, Tensor along_v, " +
               by + shared + four + ", " + four + ")")
                  .c_str());
  library.def("reverse_edges(Tensor edges, Tensor center, Tensor neighbor, float cutoff) -> Tensor");
}

TORCH_LIBRARY_IMPL(npcalc, CPU, library) {
  library.impl("pair_messages", pair_messages);
  library.impl("pair_messages_backward", pair_messages_backward);
  library.impl("pair_messages_weight_backward", pair_messages_weight_backward);
  library.impl("pair_messages_second_backward", pair_messages_second_backward);
  library.impl("reverse_edges", reverse_edges);
}

TORCH_LIBRARY_IMPL(npcalc, Autograd, library) {
  library.impl("pair_messages", differentiable_messages);
  library.impl("pair_messages_backward", differentiable_backward);
  library.impl("pair_messages_weight_backward", last_weight_backward);
  library.impl("pair_messages_second_backward", last_second_backward);
}
