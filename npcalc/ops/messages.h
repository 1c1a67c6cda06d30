// Messages of PaiNN with paired geometry over pairs of atoms, and their gradient.
//
// For an edge i, j the filter is W b + c with the radial functions b of all distances of the edge. The edge
// j, i has the same distances but for those between an electron point and a nucleus, which trade places. So
// with the even and odd parts of W under that exchange
//
//     f_ij = even + odd,    f_ji = even - odd
//
// and the two edges of a pair share their geometry, radial functions and matrix products. Blocks of LANES
// pairs go through geometry, product and messages while they are in the caches; nothing of the size of
// (edges, channels) is ever stored, and the gradient makes the filters again. The gradient of that gradient,
// which training needs, is in second.h.
//
// With heads, each electron point is that of a part of the channels: the filters of a head are made of nn and its
// own ne, en and ee, and its second direction is that of its own ee instead of the mean one. Where geometry is
// relative, messages see by how much the second direction differs from the first; that functions do too is in the weights.
//
// With products there are further functions: those of the nuclei times the shift of each displaced pair, its softened
// length less that of the vector between the nuclei.
#pragma once

#include <array>

#include "common.h"

namespace npcalc {

// What the messages are made of; see the schema in messages.cpp for shapes.
template <typename T>
struct Problem {
  int64_t n_atoms, n_edges;
  int points;    // electron points of an atom, 0 without polarization
  int basis;     // radial functions of each distance
  int channels;  // a multiple of 16, those of a head of 4
  int heads;     // 1, or as many as points
  int power;     // exponent of the polynomial envelope, 0 for the cosine
  bool still;    // all displacements are zero
  bool relative; // the second direction is less the first
  bool products; // filters see functions of the nuclei times shifts too; not of points that rest
  T cutoff, softening2;
  const T *edges, *d, *phi, *v;
  const int64_t *center, *neighbor, *reverse;
  const T *bias, *even, *odd, *even_back, *odd_back;

  // Sets of radial functions of the even and odd filters of a head.
  int n_even() const { return points == 0 ? 1 : still ? 2 : 1 + (products ? 4 : 2) * seen(); }
  int n_odd() const { return still ? 0 : (products ? 2 : 1) * seen(); }
  int seen() const { return heads > 1 ? 1 : points; }
  int n_distances() const { return points == 0 ? 1 : still ? 2 : 1 + 3 * points; }
  int n_directions() const { return points == 0 ? 1 : 2; }
  int columns() const { return (2 + n_directions()) * channels; }
  int head_width() const { return channels / heads; }
  int head_columns() const { return columns() / heads; }

  // Threads that are worth waking, and whose copies of `row` numbers for each atom take no more than half a kB for each
  // edge, or 64 MiB.
  int useful(int threads, int64_t n_pairs, int64_t row) const {
    const int64_t most = std::max(n_pairs * 1024, int64_t(64) << 20);
    const int64_t copies = most / std::max<int64_t>(1, n_atoms * row * int64_t(sizeof(T)));
    return useful_threads(int(std::min<int64_t>(threads, 1 + copies)), n_pairs);
  }
};

// Bias and packed weights of the filters of one head after the other, or where derivatives by them go; null where
// nobody asks.
template <typename T>
struct Weights {
  T *bias, *even, *odd;
};

// Coefficients of the series of sine and cosine, each by the one before it.
template <typename T>
struct Series {
  static constexpr int TERMS = sizeof(T) == 4 ? 7 : 12;
  T sine[TERMS + 1] = {}, cosine[TERMS + 1] = {};
  constexpr Series() {
    for (int n = 1; n <= TERMS; ++n) {
      sine[n] = T(1) / T(2 * n * (2 * n + 1));
      cosine[n] = T(1) / T(2 * n * (2 * n - 1));
    }
  }
};

// Sine and cosine of angles: series of a quarter of the angle, doubled twice.
template <typename T>
inline void sine_cosine(const Lanes<T>& angle, Lanes<T>& s, Lanes<T>& c) {
  static constexpr Series<T> series;
  const Lanes<T> x2 = T(0.0625) * (angle * angle);
  Lanes<T> p = 1, q = 1;
  for (int n = Series<T>::TERMS; n > 0; --n) {
    p = T(1) - series.sine[n] * x2 * p;
    q = T(1) - series.cosine[n] * x2 * q;
  }
  const Lanes<T> s1 = T(0.25) * angle * p, s2 = T(2) * s1 * q, c2 = q * q - s1 * s1;
  s = T(2) * s2 * c2;
  c = c2 * c2 - s2 * s2;
}

// Pairs inside the cutoff, one edge of each; edges without a partner stand for themselves.
template <typename T>
std::vector<int64_t> pairs_within(const Problem<T>& g) {
  std::vector<int64_t> pairs;
  pairs.reserve(g.n_edges / 2 + 1);
  const T limit = g.cutoff * g.cutoff;
  for (int64_t e = 0; e < g.n_edges; ++e) {
    if (g.reverse[e] >= 0 && g.reverse[e] < e) continue;
    const T* r = g.edges + 3 * e;
    // Also those whose length is no number, so that neither is what comes of them.
    if (!(r[0] * r[0] + r[1] * r[1] + r[2] * r[2] >= limit)) pairs.push_back(e);
  }
  return pairs;
}

// Geometry, radial functions and filters of LANES pairs.
template <typename T>
class Block {
 public:
  Block(const Problem<T>& problem, bool gradient)
      : g(problem), K(problem.still ? 0 : problem.points), H(problem.heads), nb(problem.basis),
        nd(problem.n_distances()), wide(padded(problem.head_columns())), fe(problem.n_even() * problem.basis),
        fo(problem.n_odd() * problem.basis), seconds(problem.points == 0 ? 0 : problem.still ? 1 : H > 1 ? 1 + 2 * K : nd),
        nv(std::max(nd, seconds + H)), with_gradient(gradient), memory(Memory<T>::of_thread()) {
    vectors = memory.take(3 * nv * LANES);
    distances = memory.take(nv * LANES);
    inverses = memory.take(nv * LANES);
    functions = memory.take(nd * nb * LANES);
    shifts = memory.take(nd * LANES);
    even = memory.take(H * fe * LANES);
    odd = memory.take(H * fo * LANES);
    mean = memory.take(H * 3 * LANES);
    d_i = memory.take(K * 3 * LANES);
    d_j = memory.take(K * 3 * LANES);
    filter_even = memory.take(H * LANES * wide);
    filter_odd = memory.take(H * LANES * wide);
    std::fill(filter_odd, filter_odd + H * LANES * wide, T(0));
    if (!gradient) return;
    slopes = memory.take(nd * nb * LANES);
    by_even = memory.take(H * LANES * wide);
    by_odd = memory.take(H * LANES * wide);
    std::fill(by_even, by_even + H * LANES * wide, T(0));  // also where columns are filled up
    std::fill(by_odd, by_odd + H * LANES * wide, T(0));
    by_mean = memory.take(H * 3 * LANES);
    by_function = memory.take(std::max(padded(fe), padded(fo)) * LANES);
    columns_even = memory.take(H * fe * LANES);
    columns_odd = memory.take(H * fo * LANES);
  }

  // Fills the block with `count` pairs, 1 to LANES.
  void fill(const int64_t* pairs, int n) {
    count = n;
    for (int l = 0; l < LANES; ++l) {
      const int64_t e = pairs[l < n ? l : 0];
      edge[l] = e;
      i[l] = g.center[e];
      j[l] = g.neighbor[e];
      both[l] = g.reverse[e] >= 0;
      for (int a = 0; a < 3; ++a) vectors[a * LANES + l] = g.edges[3 * e + a];
    }
    place(g.d, vectors);
    measure();
    for (int q = 0; q < nd; ++q) expand(q);
    arrange(functions, even, odd);
    if (g.products) {
      shift();
      multiply(functions, shifts, even, odd);
    }
    to_filters(even, odd, g.bias, filter_even, filter_odd);
  }

  // Takes derivatives by filters, envelope and directions to edges and displacements.
  void backward(T* by_edges, T* by_d) {
    to_functions(by_even, by_odd, columns_even, columns_odd);
    Space<T> by_r = nuclear();
    for (int h = 0; g.points > 0 && h < H; ++h) by_r += electronic(h, by_d);
    if (g.points > 0 && g.still) by_r += along(1, slope_of(1, columns_even + nb * LANES));
    for (int k = 0; k < K; ++k) {
      const T *x = columns_even + at_sum(k), *y = columns_odd + at_odd(k);
      Lanes<T> by_ne = slope_of(1 + k, x, y, 1), by_en = slope_of(1 + K + k, x, y, -1);
      Lanes<T> by_ee = slope_of(1 + 2 * K + k, columns_even + at_ee(k));
      if (g.products) {
        const Lanes<T> by_own = times(functions, columns_even + at_ee(k, true));
        const Lanes<T> by_sum = times(functions, columns_even + at_sum(k, true));
        const Lanes<T> by_difference = times(functions, columns_odd + at_odd(k, true));
        by_ne += by_sum + by_difference;
        by_en += by_sum - by_difference;
        by_ee += by_own;
        const Lanes<T> by_shifts = T(2) * by_sum + by_own;
        by_r += (slope_of_products(k) - Lanes<T>::of(soft_slope) * by_shifts) * Space<T>::of(unit[0]);
      }
      const Space<T> ne = along(1 + k, by_ne), en = along(1 + K + k, by_en), ee = along(1 + 2 * K + k, by_ee);
      by_r += ne + en + ee;
      add_by_points(k, ne + ee, en + ee, by_d);
    }
    T total[3 * LANES];
    by_r.to(total);
    for (int l = 0; l < count; ++l)
      for (int a = 0; a < 3; ++a) {
        if (!both[l]) {
          by_edges[3 * edge[l] + a] = total[a * LANES + l];
          continue;
        }
        // The two edges of a pair are opposite vectors: each gets half.
        by_edges[3 * edge[l] + a] = T(0.5) * total[a * LANES + l];
        by_edges[3 * g.reverse[edge[l]] + a] = T(-0.5) * total[a * LANES + l];
      }
  }

  // Takes derivatives by filters to the packed weights and, if wanted, the bias.
  void to_weights(const T* e, const T* o, const T* by_e, const T* by_o, const Weights<T>& to, bool with_bias) const {
    for (int h = 0; h < H; ++h) {
      const T* by = by_e + h * LANES * wide;
      add_outer(e + h * fe * LANES, fe, by, wide, count, to.even + h * fe * wide);
      if (fo > 0) add_outer(o + h * fo * LANES, fo, by_o + h * LANES * wide, wide, count, to.odd + h * fo * wide);
      if (!with_bias) continue;
      for (int l = 0; l < count; ++l)
        for (int c = 0; c < wide; ++c) to.bias[h * wide + c] += by[l * wide + c];
    }
  }
  void to_weights(const Weights<T>& to) const { to_weights(even, odd, by_even, by_odd, to, true); }

  const Problem<T>& g;
  // Electron points that move, heads, radial functions, distances, columns of a head, functions of a head.
  const int K, H, nb, nd, wide, fe, fo;
  // Which vector is that of the first head's second direction, and how many vectors there are: the distances' and,
  // without heads, that between the mean electron points.
  const int seconds, nv;
  const bool with_gradient;
  int count = 0;
  int64_t edge[LANES], i[LANES], j[LANES];
  bool both[LANES];
  T envelope[LANES], envelope_slope[LANES];
  T unit[3][LANES];                               // direction between the nuclei
  T* mean;  // second direction (heads, 3, LANES) that messages see: between the mean electron points, or those of a head
  T by_envelope[LANES], by_unit[3][LANES], *by_mean;
  T *filter_even, *filter_odd;                    // (heads, LANES, wide)
  T *by_even, *by_odd;                            // derivatives by them

 protected:
  T* vector(int q) { return vectors + 3 * q * LANES; }

  // Where the functions of a kind begin among the even, and the odd, ones; or products of that kind, which are behind.
  int at_nn(int h) const { return h * fe * LANES; }
  int at_ee(int k, bool product = false) const { return at_even(k, product ? 2 : 0); }
  int at_sum(int k, bool product = false) const { return at_even(k, product ? 3 : 1); }
  int at_even(int k, int kind) const { return (H > 1 ? k * fe + (1 + kind) * nb : (1 + kind * K + k) * nb) * LANES; }
  int at_odd(int k, bool product = false) const { return (H > 1 ? k * fo + product * nb : (product * K + k) * nb) * LANES; }

  // Filters of radial functions.
  void to_filters(const T* e, const T* o, const T* bias, T* to_even, T* to_odd) const {
    const int depth = g.head_columns();
    for (int h = 0; h < H; ++h) {
      const T* b = bias ? bias + h * wide : nullptr;
      product<T>(e + h * fe * LANES, 1, LANES, g.even + h * fe * wide, fe, depth, b, count, to_even + h * LANES * wide);
      if (fo == 0) continue;
      const T* w = g.odd + h * fo * wide;
      product<T>(o + h * fo * LANES, 1, LANES, w, fo, depth, nullptr, count, to_odd + h * LANES * wide);
    }
  }

  // Takes derivatives by filters to the radial functions, arrays (heads, functions, LANES).
  void to_functions(const T* by_e, const T* by_o, T* to_even, T* to_odd) {
    const int depth = g.head_columns();
    for (int h = 0; h < H; ++h) {
      const T* w = g.even_back + h * padded(fe) * depth;
      product<T>(by_e + h * LANES * wide, wide, 1, w, depth, fe, nullptr, count, by_function);
      transpose(by_function, padded(fe), fe, to_even + h * fe * LANES);
      if (fo == 0) continue;
      w = g.odd_back + h * padded(fo) * depth;
      product<T>(by_o + h * LANES * wide, wide, 1, w, depth, fo, nullptr, count, by_function);
      transpose(by_function, padded(fo), fo, to_odd + h * fo * LANES);
    }
  }

  // Vectors behind that of the nuclei: ne, en and ee of each electron point, and the mean one; from displacements d.
  // They are linear in both, so that tangents are placed as vectors are.
  void place(const T* d, T* to) {
    for (int l = 0; l < LANES; ++l)
      for (int k = 0; k < 3 * K; ++k) {
        d_i[k * LANES + l] = d[i[l] * 3 * K + k];
        d_j[k * LANES + l] = d[j[l] * 3 * K + k];
      }
    const Space<T> r = Space<T>::of(to);
    if (g.points > 0 && g.still) r.to(to + 3 * LANES);
    Space<T> middle = r;
    for (int k = 0; k < K; ++k) {
      const Space<T> di = Space<T>::of(d_i + 3 * k * LANES), dj = Space<T>::of(d_j + 3 * k * LANES);
      (r + dj).to(to + 3 * (1 + k) * LANES);
      (r - di).to(to + 3 * (1 + K + k) * LANES);
      (r + dj - di).to(to + 3 * (1 + 2 * K + k) * LANES);
      middle += T(1) / K * (dj - di);
    }
    if (seconds == nd) middle.to(to + 3 * nd * LANES);
  }

  // Lengths and directions of the vectors.
  void measure() {
    for (int q = 0; q < nv; ++q) {
      const Lanes<T> length = length_of(Space<T>::of(vector(q)), q == 0 ? T(0) : g.softening2);
      length.to(distances + q * LANES);
      (T(1) / length).to(inverses + q * LANES);
    }
    (Lanes<T>::of(inverses) * Space<T>::of(vectors)).to(unit[0]);
    for (int h = 0; h < H; ++h) {
      const Space<T> own = direction_of(h);
      (g.relative ? own - Space<T>::of(unit[0]) : own).to(mean + 3 * h * LANES);
    }
  }

  // Inverse length of the vector of a head's second direction.
  Lanes<T> inverse_of(int h) const { return Lanes<T>::of(inverses + (seconds + h) * LANES); }

  // Direction between the electron points of a head, or between the mean ones.
  Space<T> direction_of(int h) { return inverse_of(h) * Space<T>::of(vector(seconds + h)); }

  static Lanes<T> length_of(const Space<T>& x, T softening2) { return sqrt(dot(x, x) + softening2); }

  // Bessel functions sin(n w D) / D of a distance without their norm, and their derivatives.
  void expand(int q) {
    const T w = T(M_PI) / g.cutoff;
    const Lanes<T> inverse = Lanes<T>::of(inverses + q * LANES);
    Lanes<T> s1, c1;
    sine_cosine(w * Lanes<T>::of(distances + q * LANES), s1, c1);
    if (q == 0) cut_off(s1, c1);
    Lanes<T> s = s1, c = c1;
    for (int n = 0; n < nb; ++n) {
      const int at = (q * nb + n) * LANES;
      const Lanes<T> value = s * inverse;
      value.to(functions + at);
      if (with_gradient) ((w * (n + 1) * c - value) * inverse).to(slopes + at);
      const Lanes<T> next = s * c1 + c * s1;
      c = c * c1 - s * s1;
      s = next;
    }
  }

  // Envelope and its slope; of pi r / r_c the sine and cosine.
  void cut_off(const Lanes<T>& sine, const Lanes<T>& cosine) {
    if (g.power == 0) {
      (T(0.5) * (T(1) + cosine)).to(envelope);
      (T(-0.5) * T(M_PI) / g.cutoff * sine).to(envelope_slope);
      return;
    }
    const T p = g.power;
    const Lanes<T> x = T(1) / g.cutoff * Lanes<T>::of(distances);
    Lanes<T> lead = 1;
    for (int n = 1; n < g.power; ++n) lead = lead * x;
    const Lanes<T> polynomial = (p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x * x;
    (T(1) - lead * x * polynomial).to(envelope);
    (-p * (p + 1) * (p + 2) / 2 / g.cutoff * lead * (T(1) - x) * (T(1) - x)).to(envelope_slope);
  }

  // Shifts of the displaced pairs, and the slope of the length that they are taken from.
  void shift() {
    const Lanes<T> r = Lanes<T>::of(distances), soft = sqrt(r * r + g.softening2);
    for (int q = 1; q < nd; ++q) (Lanes<T>::of(distances + q * LANES) - soft).to(shifts + q * LANES);
    (r / soft).to(soft_slope);
  }

  // Factors of the products of point k, of ee, ne + en and ne - en, from shifts or their tangents.
  std::array<Lanes<T>, 3> factors(const T* by, int k) const {
    const Lanes<T> ne = Lanes<T>::of(by + (1 + k) * LANES), en = Lanes<T>::of(by + (1 + K + k) * LANES);
    return {Lanes<T>::of(by + (1 + 2 * K + k) * LANES), ne + en, ne - en};
  }

  // Writes products of functions of the nuclei and shifts, or adds them to what is there.
  void multiply(const T* f, const T* by, T* even, T* odd, bool add = false) const {
    for (int k = 0; k < K; ++k) {
      const std::array<Lanes<T>, 3> factor = factors(by, k);
      T* to[3] = {even + at_ee(k, true), even + at_sum(k, true), odd + at_odd(k, true)};
      for (int m = 0; m < 3; ++m)
        for (int x = 0; x < nb * LANES; x += LANES) {
          const Lanes<T> product = Lanes<T>::of(f + x) * factor[m];
          (add ? Lanes<T>::of(to[m] + x) + product : product).to(to[m] + x);
        }
    }
  }

  // Radial functions in the order of the packed weights: even are nn, ee, ne + en; odd are ne - en.
  void arrange(const T* f, T* even, T* odd) const {
    const int size = nb * LANES;
    for (int h = 0; h < H; ++h) std::memcpy(even + at_nn(h), f, size * sizeof(T));
    if (K == 0 && g.points > 0) std::memcpy(even + size, f + size, size * sizeof(T));
    for (int k = 0; k < K; ++k) {
      const T *ne = f + (1 + k) * size, *en = f + (1 + K + k) * size;
      std::memcpy(even + at_ee(k), f + (1 + 2 * K + k) * size, size * sizeof(T));
      T *sum = even + at_sum(k), *difference = odd + at_odd(k);
      for (int x = 0; x < size; ++x) {
        sum[x] = ne[x] + en[x];
        difference[x] = ne[x] - en[x];
      }
    }
  }

  static void transpose(const T* rows, int row, int n, T* to) {
    for (int f = 0; f < n; ++f)
      for (int l = 0; l < LANES; ++l) to[f * LANES + l] = rows[l * row + f];
  }

  // Derivative by distance q from those by its functions, x + sign * y.
  Lanes<T> slope_of(int q, const T* x, const T* y = nullptr, T sign = 0) const {
    Lanes<T> slope;
    for (int n = 0; n < nb; ++n) {
      Lanes<T> by = Lanes<T>::of(x + n * LANES);
      if (y) by += sign * Lanes<T>::of(y + n * LANES);
      slope += by * Lanes<T>::of(slopes + (q * nb + n) * LANES);
    }
    return slope;
  }

  // Sum of functions, or of slopes, of the nuclei times derivatives by products.
  Lanes<T> times(const T* f, const T* by) const {
    Lanes<T> sum;
    for (int x = 0; x < nb * LANES; x += LANES) sum += Lanes<T>::of(f + x) * Lanes<T>::of(by + x);
    return sum;
  }

  // Derivative by the distance of the nuclei from those by the products of point k, for constant shifts.
  Lanes<T> slope_of_products(int k) const {
    const std::array<Lanes<T>, 3> factor = factors(shifts, k);
    return factor[0] * times(slopes, columns_even + at_ee(k, true)) +
           factor[1] * times(slopes, columns_even + at_sum(k, true)) +
           factor[2] * times(slopes, columns_odd + at_odd(k, true));
  }

  // Derivative by the vector of distance q.
  Space<T> along(int q, const Lanes<T>& slope) {
    return slope * Lanes<T>::of(inverses + q * LANES) * Space<T>::of(vector(q));
  }

  Space<T> nuclear() {
    const Space<T> direction = Space<T>::of(unit[0]);
    Space<T> by = Space<T>::of(by_unit[0]);
    for (int h = 0; g.relative && h < H; ++h) by = by - Space<T>::of(by_mean + 3 * h * LANES);
    Lanes<T> slope = Lanes<T>::of(by_envelope) * Lanes<T>::of(envelope_slope);
    for (int h = 0; h < H; ++h) slope += slope_of(0, columns_even + at_nn(h));
    return slope * direction + Lanes<T>::of(inverses) * (by - dot(by, direction) * direction);
  }

  // From the direction between the electron points of a head, or between the mean ones.
  Space<T> electronic(int h, T* by_d) {
    const Space<T> m = direction_of(h), by = Space<T>::of(by_mean + 3 * h * LANES);
    const Space<T> part = inverse_of(h) * (by - dot(by, m) * m);
    add_shared(h, part, by_d);
    return part;
  }

  // Adds the derivative by the mean shift, or by that of a head's point, to displacements.
  void add_shared(int h, const Space<T>& part, T* by_d) const {
    if (H > 1) return add_by_points(h, part, part, by_d);
    const Space<T> share = T(1) / std::max(K, 1) * part;
    for (int k = 0; k < K; ++k) add_by_points(k, share, share, by_d);
  }

  // Adds derivatives by electron point k of the neighbor, and takes off those of the center.
  void add_by_points(int k, const Space<T>& neighbor, const Space<T>& center, T* by_d) const {
    T to[3 * LANES], from[3 * LANES];
    neighbor.to(to);
    center.to(from);
    for (int l = 0; l < count; ++l)
      for (int a = 0; a < 3; ++a) {
        by_d[(j[l] * K + k) * 3 + a] += to[a * LANES + l];
        by_d[(i[l] * K + k) * 3 + a] -= from[a * LANES + l];
      }
  }

  Memory<T>& memory;
  T *vectors, *distances, *inverses, *functions, *slopes, *shifts, *even, *odd, *d_i, *d_j;
  T soft_slope[LANES];
  T *by_function, *columns_even, *columns_odd;
};

// What `of` makes of the number of directions, of how many channels of a head its vectors may hold, and of the channels of
// a head where that is known beforehand: heads of eight, which are one vector, have no loop and few addresses then.
template <typename T, typename F>
auto for_shape(const Problem<T>& g, const F& of) {
  const std::integral_constant<int, 0> any;
  const std::integral_constant<int, 1> one;
  const std::integral_constant<int, 2> two;
  const std::integral_constant<int, 4> four;
  const std::integral_constant<int, 8> eight;
  const std::integral_constant<int, 16> sixteen;
  if (g.points == 0) return of(one, sixteen, any);
  if (g.head_width() == 8) return of(two, eight, eight);
  return g.head_width() % 16 == 0 ? of(two, sixteen, any) : g.head_width() % 8 == 0 ? of(two, eight, any) : of(two, four, any);
}

// Adds the messages of pair l to its atoms.
template <typename T, int DIRECTIONS, int MOST, int WIDTH>
void add_messages(const Block<T>& b, int l, T* ds, T* dv) {
  typedef Vec<T, MOST> X;
  typedef typename X::type V;
  const Problem<T>& g = b.g;
  const int C = g.channels, W = WIDTH ? WIDTH : g.head_width(), P = 2 + DIRECTIONS;
  const T u = b.envelope[l];
  for (int way = 0; way < (b.both[l] ? 2 : 1); ++way) {
    const int64_t to = way ? b.j[l] : b.i[l], from = way ? b.i[l] : b.j[l];
    const T sign = way ? -1 : 1, along[3] = {sign * b.unit[0][l], sign * b.unit[1][l], sign * b.unit[2][l]};
    // Of the first head, then of each next one: heads are soon done, and to find their places anew takes as long.
    const T *phi = g.phi + from * P * C, *v = g.v + from * 3 * C, *mean = b.mean + l;
    const T *fe = b.filter_even + l * b.wide, *fo = b.filter_odd + l * b.wide;
    T *s_out = ds + to * C, *v_out = dv + to * 3 * C;
    for (int h = 0; h < b.H; ++h) {
      for (int c = 0; c < W; c += X::width) {
        V m[P];
        for (int p = 0; p < P; ++p)
          m[p] = u * (X::load(fe + p * W + c) + sign * X::load(fo + p * W + c)) * X::load(phi + p * C + c);
        X::store(s_out + c, X::load(s_out + c) + m[0]);
        for (int a = 0; a < 3; ++a) {
          V x = m[1] * X::load(v + a * C + c) + along[a] * m[2];
          if (DIRECTIONS == 2) x += (sign * mean[a * LANES]) * m[P - 1];
          X::store(v_out + a * C + c, X::load(v_out + a * C + c) + x);
        }
      }
      phi += W, v += W, s_out += W, v_out += W;
      fe += LANES * b.wide, fo += LANES * b.wide, mean += 3 * LANES;
    }
  }
}

// Where the gradient goes.
template <typename T>
struct Gradient {
  T *edges, *d, *phi, *v;
};

// Takes derivatives by the messages of pair l to features, filters, envelope and directions.
template <typename T, int DIRECTIONS, int MOST, int WIDTH>
void add_gradient(Block<T>& b, int l, const T* by_ds, const T* by_dv, const Gradient<T>& to) {
  typedef Vec<T, MOST> X;
  typedef typename X::type V;
  const Problem<T>& g = b.g;
  const int C = g.channels, W = WIDTH ? WIDTH : g.head_width(), P = 2 + DIRECTIONS;
  const T u = b.envelope[l];
  V by_u{}, by_unit[3]{};
  for (int h = 0; h < b.H; ++h) {
    const int row = (h * LANES + l) * b.wide, mean = 3 * h * LANES + l;
    const T *fe = b.filter_even + row, *fo = b.filter_odd + row;
    T *by_even = b.by_even + row, *by_odd = b.by_odd + row;
    V by_mean[3]{};
    for (int way = 0; way < (b.both[l] ? 2 : 1); ++way) {
      const int64_t center = way ? b.j[l] : b.i[l], from = way ? b.i[l] : b.j[l];
      const T sign = way ? -1 : 1, *phi = g.phi + from * P * C + h * W, *v = g.v + from * 3 * C + h * W;
      const T *gs = by_ds + center * C + h * W, *gv = by_dv + center * 3 * C + h * W;
      T *g_phi = to.phi + from * P * C + h * W, *g_v = to.v + from * 3 * C + h * W;
      for (int c = 0; c < W; c += X::width) {
        V q[P], x[3];
        q[0] = X::load(gs + c);
        for (int p = 1; p < P; ++p) q[p] = V{};
        for (int a = 0; a < 3; ++a) {
          x[a] = X::load(gv + a * C + c);
          q[1] += x[a] * X::load(v + a * C + c);
          q[2] += (sign * b.unit[a][l]) * x[a];
          if (DIRECTIONS == 2) q[P - 1] += (sign * b.mean[mean + a * LANES]) * x[a];
        }
        V m[P];
        for (int p = 0; p < P; ++p) {
          const int k = p * W + c, full = p * C + c;
          const V f = X::load(fe + k) + sign * X::load(fo + k), w = X::load(phi + full);
          X::store(g_phi + full, X::load(g_phi + full) + u * f * q[p]);
          const V by = q[p] * w;
          by_u += by * f;
          m[p] = u * f * w;
          if (way) {
            X::store(by_even + k, X::load(by_even + k) + u * by);
            X::store(by_odd + k, X::load(by_odd + k) - u * by);
          } else {
            X::store(by_even + k, u * by);
            X::store(by_odd + k, u * by);
          }
        }
        for (int a = 0; a < 3; ++a) {
          X::store(g_v + a * C + c, X::load(g_v + a * C + c) + m[1] * x[a]);
          by_unit[a] += sign * m[2] * x[a];
          if (DIRECTIONS == 2) by_mean[a] += sign * m[P - 1] * x[a];
        }
      }
    }
    for (int a = 0; a < 3; ++a) b.by_mean[mean + a * LANES] = X::sum(by_mean[a]);
  }
  b.by_envelope[l] = X::sum(by_u);
  for (int a = 0; a < 3; ++a) b.by_unit[a][l] = X::sum(by_unit[a]);
}

// Calls work(block, thread) for all blocks of pairs, filled; each thread makes a block.
template <typename T, typename B, typename M, typename F>
void over_pairs(const Problem<T>& g, const std::vector<int64_t>& pairs, int threads, const M& make, const F& work) {
  const int64_t n = pairs.size();
  in_parallel(threads, n_blocks(n), [&](int thread, int64_t first, int64_t last) {
    B block = make();
    for (int64_t x = first * LANES; x < std::min(n, last * LANES); x += LANES) {
      block.fill(pairs.data() + x, int(std::min<int64_t>(LANES, n - x)));
      work(block, thread);
    }
  });
}

// Adds the messages of all pairs to ds (n_atoms, C) and dv (n_atoms, 3, C), which are zero.
template <typename T>
void messages(const Problem<T>& g, T* ds, T* dv, int threads) {
  const std::vector<int64_t> pairs = pairs_within(g);
  threads = g.useful(threads, pairs.size(), 4 * g.channels);
  Shares<T> s(ds, g.n_atoms * g.channels, threads), v(dv, g.n_atoms * 3 * g.channels, threads);
  const auto add = for_shape(g, [](auto n, auto most, auto width) { return add_messages<T, n, most, width>; });
  over_pairs<T, Block<T>>(g, pairs, threads, [&] { return Block<T>(g, false); }, [&](Block<T>& block, int t) {
    for (int l = 0; l < block.count; ++l) add(block, l, s.of(t), v.of(t));
  });
  s.add_up();
  v.add_up();
}

// Copies of the arrays of `Weights` for each thread.
template <typename T>
class WeightShares {
 public:
  WeightShares(const Problem<T>& g, const Weights<T>& to, int threads)
      : wide(to.even ? g.heads * padded(g.head_columns()) : 0), bias(to.bias, wide, threads),
        even(to.even, int64_t(g.n_even()) * g.basis * wide, threads),
        odd(to.odd, int64_t(g.n_odd()) * g.basis * wide, threads) {}
  Weights<T> of(int thread) { return {bias.of(thread), even.of(thread), odd.of(thread)}; }
  void add_up() {
    bias.add_up();
    even.add_up();
    odd.add_up();
  }

 private:
  int wide;
  Shares<T> bias, even, odd;
};

// Gradient of the messages; the arrays of `to` and `weights` are zero.
template <typename T>
void messages_backward(const Problem<T>& g, const T* by_ds, const T* by_dv, const Gradient<T>& to,
                       const Weights<T>& weights, int threads) {
  const std::vector<int64_t> pairs = pairs_within(g);
  threads = g.useful(threads, pairs.size(), g.columns() + 3 * g.channels + 3 * g.points);
  Shares<T> phi(to.phi, g.n_atoms * g.columns(), threads), v(to.v, g.n_atoms * 3 * g.channels, threads);
  Shares<T> d(to.d, g.n_atoms * g.points * 3, threads);
  WeightShares<T> w(g, weights, threads);
  const auto add = for_shape(g, [](auto n, auto most, auto width) { return add_gradient<T, n, most, width>; });
  over_pairs<T, Block<T>>(g, pairs, threads, [&] { return Block<T>(g, true); }, [&](Block<T>& block, int t) {
    const Gradient<T> mine{to.edges, d.of(t), phi.of(t), v.of(t)};
    for (int l = 0; l < block.count; ++l) add(block, l, by_ds, by_dv, mine);
    block.backward(mine.edges, mine.d);
    if (weights.even) block.to_weights(w.of(t));
  });
  phi.add_up();
  v.add_up();
  d.add_up();
  w.add_up();
}

// For each edge the one that goes back, with exactly the opposite vector; -1 where there is none, and beyond the cutoff.
template <typename T>
void reverse_edges(const T* edges, const int64_t* center, const int64_t* neighbor, int64_t n_edges, T cutoff,
                   int64_t* reverse) {
  int64_t n_atoms = 0;
  for (int64_t e = 0; e < n_edges; ++e) n_atoms = std::max({n_atoms, center[e] + 1, neighbor[e] + 1});
  std::vector<int64_t> start(n_atoms + 1, 0), order(n_edges);
  for (int64_t e = 0; e < n_edges; ++e) ++start[center[e] + 1];
  for (int64_t a = 0; a < n_atoms; ++a) start[a + 1] += start[a];
  std::vector<int64_t> next(start.begin(), start.end() - 1);
  for (int64_t e = 0; e < n_edges; ++e) order[next[center[e]]++] = e;
  std::fill(reverse, reverse + n_edges, int64_t(-1));
  for (int64_t e = 0; e < n_edges; ++e) {
    const T* r = edges + 3 * e;
    if (reverse[e] >= 0 || r[0] * r[0] + r[1] * r[1] + r[2] * r[2] >= cutoff * cutoff) continue;
    for (int64_t x = start[neighbor[e]]; x < start[neighbor[e] + 1]; ++x) {
      const int64_t other = order[x];
      const T* back = edges + 3 * other;
      if (neighbor[other] != center[e] || reverse[other] >= 0 || other == e) continue;
      if (r[0] == -back[0] && r[1] == -back[1] && r[2] == -back[2]) {
        reverse[e] = other;
        reverse[other] = e;
        break;
      }
    }
  }
}

}  // namespace npcalc
