// The gradient of the gradient of messages, which training on forces needs.
//
// The gradient of messages by x = (edges, d, phi, v), weighted by the derivatives `by` by the messages, is
// taken along a direction c in the space of x. That is the same number as
//
//     S = <by, messages' change along c at x>
//
// so its gradient needs the messages and their tangents along c: S is differentiated by `by` (which gives the
// tangents themselves), d, phi, v and the weights of the filters. A name that ends in _t is a tangent along c.
// Derivatives by the edges are not made: they are data.
#pragma once

#include "messages.h"

namespace npcalc {

// The direction, arrays as edges, d, phi and v.
template <typename T>
struct Direction {
  const T *edges, *d, *phi, *v;
};

// Where derivatives of S go.
template <typename T>
struct SecondGradient {
  T *by_ds, *by_dv, *d, *phi, *v;
};

// A block with tangents of its geometry, radial functions and filters.
template <typename T>
class TangentBlock : public Block<T> {
  using Block<T>::vectors, Block<T>::distances, Block<T>::inverses, Block<T>::slopes, Block<T>::functions;
  using Block<T>::even, Block<T>::odd, Block<T>::columns_even, Block<T>::columns_odd, Block<T>::memory, Block<T>::shifts;

 public:
  using Block<T>::g, Block<T>::K, Block<T>::H, Block<T>::nb, Block<T>::nd, Block<T>::wide, Block<T>::fe, Block<T>::fo;
  using Block<T>::seconds, Block<T>::nv;
  using Block<T>::count, Block<T>::edge;
  using Block<T>::i, Block<T>::j, Block<T>::both, Block<T>::unit;
  using Block<T>::by_even, Block<T>::by_odd, Block<T>::by_mean;

  TangentBlock(const Problem<T>& problem, const Direction<T>& direction)
      : Block<T>(problem, true), along(direction) {
    vectors_t = memory.take(3 * nv * LANES);
    distances_t = memory.take(nd * LANES);
    functions_t = memory.take(nd * nb * LANES);
    shifts_t = memory.take(nd * LANES);
    even_t = memory.take(H * fe * LANES);
    odd_t = memory.take(H * fo * LANES);
    columns_even_t = memory.take(H * fe * LANES);
    columns_odd_t = memory.take(H * fo * LANES);
    for (T** array : {&mean_t, &by_mean_t}) *array = memory.take(H * 3 * LANES);
    for (T** array : {&filter_even_t, &filter_odd_t, &by_even_t, &by_odd_t}) {
      *array = memory.take(H * LANES * wide);
      std::fill(*array, *array + H * LANES * wide, T(0));
    }
  }

  void fill(const int64_t* pairs, int n) {
    Block<T>::fill(pairs, n);
    place_tangents();
    for (int q = 0; q < nd; ++q) {
      const Lanes<T> rate = Lanes<T>::of(distances_t + q * LANES);
      for (int x = q * nb * LANES; x < (q + 1) * nb * LANES; x += LANES)
        (Lanes<T>::of(slopes + x) * rate).to(functions_t + x);
    }
    (Lanes<T>::of(this->envelope_slope) * Lanes<T>::of(distances_t)).to(envelope_t);
    this->arrange(functions_t, even_t, odd_t);
    if (g.products) multiply_tangents();
    this->to_filters(even_t, odd_t, nullptr, filter_even_t, filter_odd_t);
  }

  // Takes derivatives by filters and the mean directions, and by their tangents, to displacements and weights.
  void backward(T* by_d, const Weights<T>& weights) {
    this->to_weights(weights);
    this->to_weights(even_t, odd_t, by_even_t, by_odd_t, weights, false);
    if (K == 0) return;
    this->to_functions(by_even, by_odd, columns_even, columns_odd);
    this->to_functions(by_even_t, by_odd_t, columns_even_t, columns_odd_t);
    for (int h = 0; h < H; ++h) this->add_shared(h, by_shift(h), by_d);
    for (int k = 0; k < K; ++k) {
      const auto of = [&](int q, T sign) {
        Slopes by{};
        const auto evens = [&](bool product) { return sign == 0 ? this->at_ee(k, product) : this->at_sum(k, product); };
        by_functions(q, evens(false), this->at_odd(k), sign, by);
        if (g.products) by_products(evens(true), this->at_odd(k, true), sign, by);
        return by_vector(q, by);
      };
      const Space<T> ne = of(1 + k, 1), en = of(1 + K + k, -1), ee = of(1 + 2 * K + k, 0);
      this->add_by_points(k, ne + ee, en + ee, by_d);
    }
  }

  const Direction<T> along;
  T envelope_t[LANES], unit_t[3][LANES];
  T *mean_t, *by_mean_t;  // (heads, 3, LANES)
  T *filter_even_t, *filter_odd_t, *by_even_t, *by_odd_t;

 private:
  T* vector_t(int q) { return vectors_t + 3 * q * LANES; }

  void place_tangents() {
    T* r = vector_t(0);
    for (int l = 0; l < LANES; ++l)
      for (int a = 0; a < 3; ++a) {
        // The two edges of a pair are one vector; each has half of its derivative.
        const T there = along.edges[3 * edge[l] + a];
        r[a * LANES + l] = both[l] ? T(0.5) * (there - along.edges[3 * g.reverse[edge[l]] + a]) : there;
      }
    const Space<T> r_t = Space<T>::of(r);
    this->place(along.d, vectors_t);
    for (int q = 0; q < nd; ++q)
      (dot(Space<T>::of(this->vector(q)), Space<T>::of(vector_t(q))) * Lanes<T>::of(inverses + q * LANES))
          .to(distances_t + q * LANES);
    (Lanes<T>::of(inverses) * (r_t - Lanes<T>::of(distances_t) * Space<T>::of(unit[0]))).to(unit_t[0]);
    for (int h = 0; h < H; ++h) {
      const Space<T> m = this->direction_of(h), t = Space<T>::of(vector_t(seconds + h));
      const Space<T> turning = this->inverse_of(h) * (t - dot(m, t) * m);
      (g.relative ? turning - Space<T>::of(unit_t[0]) : turning).to(mean_t + 3 * h * LANES);
    }
  }

  void multiply_tangents() {
    const Lanes<T> soft = Lanes<T>::of(this->soft_slope) * Lanes<T>::of(distances_t);
    for (int q = 1; q < nd; ++q) (Lanes<T>::of(distances_t + q * LANES) - soft).to(shifts_t + q * LANES);
    this->multiply(functions_t, shifts, even_t, odd_t);
    this->multiply(functions, shifts_t, even_t, odd_t, true);
  }

  // Derivatives by a distance, and by its tangent.
  struct Slopes {
    Lanes<T> by_distance, by_rate;
  };

  // Derivatives by functions, even + sign * odd, and by their tangents.
  void columns(int evens, int odds, T sign, Lanes<T>& value, Lanes<T>& tangent) const {
    value = Lanes<T>::of(columns_even + evens);
    tangent = Lanes<T>::of(columns_even_t + evens);
    if (sign == 0) return;
    value += sign * Lanes<T>::of(columns_odd + odds);
    tangent += sign * Lanes<T>::of(columns_odd_t + odds);
  }

  // Adds what comes from functions of distance q.
  void by_functions(int q, int evens, int odds, T sign, Slopes& by) const {
    const Lanes<T> inverse = Lanes<T>::of(inverses + q * LANES), rate = Lanes<T>::of(distances_t + q * LANES);
    Lanes<T> value, tangent;
    for (int n = 0; n < nb; ++n) {
      const T w = T(M_PI) / g.cutoff * (n + 1);
      const int x = n * LANES, f = (q * nb + n) * LANES;
      columns(evens + x, odds + x, sign, value, tangent);
      // D b = sin(w D), so D b'' = -w^2 sin(w D) - 2 b'.
      const Lanes<T> slope = Lanes<T>::of(slopes + f);
      const Lanes<T> curvature = -w * w * Lanes<T>::of(functions + f) - T(2) * slope * inverse;
      by.by_distance += value * slope + tangent * curvature * rate;
      by.by_rate += tangent * slope;
    }
  }

  // Adds what comes from functions of the nuclei times the shift of a distance.
  void by_products(int evens, int odds, T sign, Slopes& by) const {
    Lanes<T> value, tangent;
    for (int x = 0; x < nb * LANES; x += LANES) {
      columns(evens + x, odds + x, sign, value, tangent);
      const Lanes<T> f = Lanes<T>::of(functions + x);
      by.by_distance += value * f + tangent * Lanes<T>::of(functions_t + x);
      by.by_rate += tangent * f;
    }
  }

  // Derivative by the vector of distance q.
  Space<T> by_vector(int q, const Slopes& by) {
    const Lanes<T> inverse = Lanes<T>::of(inverses + q * LANES), rate = Lanes<T>::of(distances_t + q * LANES);
    const Space<T> direction = inverse * Space<T>::of(this->vector(q));
    const Space<T> turning = inverse * (Space<T>::of(vector_t(q)) - rate * direction);
    return by.by_distance * direction + by.by_rate * turning;
  }

  // Derivative by the vector between the mean electron points, from those by its direction n = m / L and the
  // tangent n_t = m_t / L - m (m m_t) / L^3.
  Space<T> by_shift(int h) {
    const int at = 3 * h * LANES;
    const Space<T> m = this->direction_of(h), t = Space<T>::of(vector_t(seconds + h));
    const Space<T> by = Space<T>::of(by_mean + at), by_t = Space<T>::of(by_mean_t + at);
    const Lanes<T> inverse = this->inverse_of(h);
    const Lanes<T> by_t_n = dot(by_t, m), n_m = dot(m, t);
    const Space<T> straight = by - dot(by, m) * m;
    const Space<T> turning = (T(3) * by_t_n * n_m - dot(by_t, t)) * m - n_m * by_t - by_t_n * t;
    return inverse * straight + inverse * inverse * turning;
  }

  T *vectors_t, *distances_t, *functions_t, *shifts_t, *even_t, *odd_t, *columns_even_t, *columns_odd_t;
};

// Takes S of pair l apart: derivatives by `by`, features, filters and mean directions.
template <typename T, int DIRECTIONS, int MOST, int WIDTH>
void add_second(TangentBlock<T>& b, int l, const T* by_ds, const T* by_dv, const SecondGradient<T>& to) {
  typedef Vec<T, MOST> X;
  typedef typename X::type V;
  const Problem<T>& g = b.g;
  const int C = g.channels, W = WIDTH ? WIDTH : g.head_width(), P = 2 + DIRECTIONS;
  const T u = b.envelope[l], u_t = b.envelope_t[l];
  for (int h = 0; h < b.H; ++h) {
    const int row = (h * LANES + l) * b.wide, first = 3 * h * LANES + l;
    const T *fe = b.filter_even + row, *fo = b.filter_odd + row;
    const T *fe_t = b.filter_even_t + row, *fo_t = b.filter_odd_t + row;
    T *by_even = b.by_even + row, *by_odd = b.by_odd + row;
    T *by_even_t = b.by_even_t + row, *by_odd_t = b.by_odd_t + row;
    V by_mean[3]{}, by_mean_t[3]{};
    for (int way = 0; way < (b.both[l] ? 2 : 1); ++way) {
      const int64_t center = way ? b.j[l] : b.i[l], from = way ? b.i[l] : b.j[l];
      const int64_t parts = from * P * C + h * W, vectors = from * 3 * C + h * W;
      const T sign = way ? -1 : 1;
      const T *phi = g.phi + parts, *v = g.v + vectors, *phi_t = b.along.phi + parts, *v_t = b.along.v + vectors;
      const T *gs = by_ds + center * C + h * W, *gv = by_dv + center * 3 * C + h * W;
      T *h_ds = to.by_ds + center * C + h * W, *h_dv = to.by_dv + center * 3 * C + h * W;
      T *h_phi = to.phi + parts, *h_v = to.v + vectors;
      for (int c = 0; c < W; c += X::width) {
        V x[3], q[P], q_t[P];  // derivatives of S by the tangents of the parts, and by the parts
        q[0] = X::load(gs + c);
        q_t[0] = V{};
        for (int p = 1; p < P; ++p) q[p] = q_t[p] = V{};
        for (int a = 0; a < 3; ++a) {
          x[a] = X::load(gv + a * C + c);
          q[1] += x[a] * X::load(v + a * C + c);
          q_t[1] += x[a] * X::load(v_t + a * C + c);
          q[2] += (sign * b.unit[a][l]) * x[a];
          q_t[2] += (sign * b.unit_t[a][l]) * x[a];
          if (DIRECTIONS == 2) {
            q[P - 1] += (sign * b.mean[first + a * LANES]) * x[a];
            q_t[P - 1] += (sign * b.mean_t[first + a * LANES]) * x[a];
          }
        }
        V m[P], m_t[P];
        for (int p = 0; p < P; ++p) {
          const int k = p * W + c, full = p * C + c;
          const V f = X::load(fe + k) + sign * X::load(fo + k), f_t = X::load(fe_t + k) + sign * X::load(fo_t + k);
          const V w = X::load(phi + full), w_t = X::load(phi_t + full), uf = u * f, uf_t = u_t * f + u * f_t;
          m[p] = uf * w;
          m_t[p] = uf_t * w + uf * w_t;
          X::store(h_phi + full, X::load(h_phi + full) + q[p] * uf_t + q_t[p] * uf);
          const V by_f = q[p] * (u_t * w + u * w_t) + q_t[p] * (u * w), by_f_t = q[p] * (u * w);
          if (way) {
            X::store(by_even + k, X::load(by_even + k) + by_f);
            X::store(by_odd + k, X::load(by_odd + k) - by_f);
            X::store(by_even_t + k, X::load(by_even_t + k) + by_f_t);
            X::store(by_odd_t + k, X::load(by_odd_t + k) - by_f_t);
          } else {
            X::store(by_even + k, by_f);
            X::store(by_odd + k, by_f);
            X::store(by_even_t + k, by_f_t);
            X::store(by_odd_t + k, by_f_t);
          }
        }
        X::store(h_ds + c, X::load(h_ds + c) + m_t[0]);
        for (int a = 0; a < 3; ++a) {
          const int k = a * C + c, n = first + a * LANES;
          V y = m_t[1] * X::load(v + k) + m[1] * X::load(v_t + k);
          y += (sign * b.unit_t[a][l]) * m[2] + (sign * b.unit[a][l]) * m_t[2];
          if (DIRECTIONS == 2) {
            y += (sign * b.mean_t[n]) * m[P - 1] + (sign * b.mean[n]) * m_t[P - 1];
            by_mean[a] += sign * m_t[P - 1] * x[a];
            by_mean_t[a] += sign * m[P - 1] * x[a];
          }
          X::store(h_dv + k, X::load(h_dv + k) + y);
          X::store(h_v + k, X::load(h_v + k) + m_t[1] * x[a]);
        }
      }
    }
    for (int a = 0; a < 3; ++a) {
      b.by_mean[first + a * LANES] = X::sum(by_mean[a]);
      b.by_mean_t[first + a * LANES] = X::sum(by_mean_t[a]);
    }
  }
}

// Gradient of S; the arrays of `to` and `weights` are zero.
template <typename T>
void messages_second(const Problem<T>& g, const Direction<T>& along, const T* by_ds, const T* by_dv,
                     const SecondGradient<T>& to, const Weights<T>& weights, int threads) {
  const std::vector<int64_t> pairs = pairs_within(g);
  threads = g.useful(threads, pairs.size(), g.columns() + 7 * g.channels + 3 * g.points);
  const int64_t n = g.n_atoms;
  Shares<T> s(to.by_ds, n * g.channels, threads), x(to.by_dv, n * 3 * g.channels, threads);
  Shares<T> d(to.d, n * g.points * 3, threads), phi(to.phi, n * g.columns(), threads);
  Shares<T> v(to.v, n * 3 * g.channels, threads);
  WeightShares<T> w(g, weights, threads);
  const auto add = for_shape(g, [](auto n, auto most, auto width) { return add_second<T, n, most, width>; });
  const auto make = [&] { return TangentBlock<T>(g, along); };
  over_pairs<T, TangentBlock<T>>(g, pairs, threads, make, [&](TangentBlock<T>& block, int t) {
    const SecondGradient<T> mine{s.of(t), x.of(t), d.of(t), phi.of(t), v.of(t)};
    for (int l = 0; l < block.count; ++l) add(block, l, by_ds, by_dv, mine);
    block.backward(mine.d, w.of(t));
  });
  s.add_up();
  x.add_up();
  d.add_up();
  phi.add_up();
  v.add_up();
  w.add_up();
}

}  // namespace npcalc
