// Tensor-product convolution over edges, its gradient, and the gradient of that.
//
// With components q of the result, d of the features and h of the harmonics, all convolutions are derivatives of
//
//     S(g, w, y, x) = sum over edges e = (i, j), q, d, h, c of  g[i,q,c] w[e,path(q),c] T[q,d,h] y[e,h] x[j,d,c]
//
// which is linear in each of its four arguments. The convolution is dS/dg, its gradient the other three, and the
// gradient of these along a direction is that of a sum of such forms. T, the Clebsch-Gordan coefficients, is sparse:
// for an edge its sum over h is a number for each pair (q, d) that is not zero, shared by all channels. Channels are
// the lanes of the processor's vectors; nothing of the size of (edges, q, channels) is stored.
#pragma once

#include "common.h"

namespace npcalc {

// The coefficients: entries (q, d, h) in this order, values, and the path of each q. Rows of a path are neighbors.
template <typename T>
struct Coefficients {
  struct Pair {
    int d, first, last;  // component of the features, entries
  };
  int n_q, n_paths = 0, n_pairs;
  std::vector<int> rows;        // pairs of q: rows[q] to rows[q + 1]
  std::vector<int> path_start;  // components of path p: path_start[p] to path_start[p + 1]
  std::vector<Pair> pairs;
  std::vector<int> h;
  std::vector<T> value;

  Coefficients(const int64_t* entries, const T* values, int64_t n_entries, const int64_t* paths, int64_t n)
      : n_q(int(n)), rows(n + 1, 0), h(n_entries), value(values, values + n_entries) {
    for (int64_t k = 0; k < n_entries; ++k) {
      const int64_t q = entries[3 * k], d = entries[3 * k + 1];
      h[k] = int(entries[3 * k + 2]);
      if (k == 0 || q != entries[3 * k - 3] || d != entries[3 * k - 2]) {
        pairs.push_back({int(d), int(k), int(k)});
        ++rows[q + 1];
      }
      pairs.back().last = int(k) + 1;
    }
    for (int q = 0; q < n_q; ++q) rows[q + 1] += rows[q];
    for (int q = 0; q < n_q; ++q)
      if (q == 0 || paths[q] != paths[q - 1]) path_start.push_back(q);
    n_paths = int(path_start.size());
    path_start.push_back(n_q);
    n_pairs = int(pairs.size());
  }

  // Sum over h of the coefficients and the harmonics of an edge, a number for each pair.
  void contract(const T* y, T* m) const {
    for (int k = 0; k < n_pairs; ++k) {
      T total = 0;
      for (int e = pairs[k].first; e < pairs[k].last; ++e) total += value[e] * y[h[e]];
      m[k] = total;
    }
  }
};

// Arguments of S beside the first.
template <typename T>
struct Edges {
  const Coefficients<T>& table;
  int64_t n_edges;
  int n_h, n_d, channels;  // channels are a multiple of 16
  const int64_t *center, *neighbor;
  const T *w, *y, *x;

  int64_t w_row() const { return int64_t(table.n_paths) * channels; }
  int64_t g_row() const { return int64_t(table.n_q) * channels; }
  int64_t x_row() const { return int64_t(n_d) * channels; }

  // Threads that are worth waking, and whose copies of a result take no more memory than the weights.
  int useful(int threads, int64_t n_points) const {
    const int64_t copies = n_edges * w_row() / std::max<int64_t>(1, n_points * std::max(g_row(), x_row()));
    return useful_threads(int(std::min<int64_t>(threads, 1 + copies)), n_edges);
  }
};

// Adds the convolution to `out` (points, q, c).
template <typename T>
void convolution(const Edges<T>& s, int64_t n_points, T* out, int threads) {
  typedef typename Vec<T>::type V;
  constexpr int W = Vec<T>::width;
  const Coefficients<T>& t = s.table;
  threads = s.useful(threads, n_points);
  Shares<T> shares(out, n_points * s.g_row(), threads);
  in_parallel(threads, n_blocks(s.n_edges), [&](int thread, int64_t first, int64_t last) {
    std::vector<T> m(t.n_pairs);
    T* result = shares.of(thread);
    for (int64_t e = first * LANES; e < std::min(s.n_edges, last * LANES); ++e) {
      t.contract(s.y + e * s.n_h, m.data());
      const T *w = s.w + e * s.w_row(), *x = s.x + s.neighbor[e] * s.x_row();
      T* to = result + s.center[e] * s.g_row();
      for (int c = 0; c < s.channels; c += W)
        for (int p = 0; p < t.n_paths; ++p) {
          const V weight = load(w + p * s.channels + c);
          for (int q = t.path_start[p]; q < t.path_start[p + 1]; ++q) {
            V sum = {};
            for (int k = t.rows[q]; k < t.rows[q + 1]; ++k) sum += m[k] * load(x + t.pairs[k].d * s.channels + c);
            T* place = to + q * s.channels + c;
            store(place, load(place) + weight * sum);
          }
        }
    }
  });
  shares.add_up();
}

// Where derivatives of S by w, y and x go; that by x is added to.
template <typename T>
struct EdgeGradient {
  T *w, *y, *x;
};

// The gradient of the convolution weighted by g (points, q, c).
template <typename T>
void convolution_backward(const Edges<T>& s, const T* g, int64_t n_points, const EdgeGradient<T>& by, int threads) {
  typedef typename Vec<T>::type V;
  constexpr int W = Vec<T>::width;
  const Coefficients<T>& t = s.table;
  threads = s.useful(threads, n_points);
  Shares<T> shares(by.x, n_points * s.x_row(), threads);
  in_parallel(threads, n_blocks(s.n_edges), [&](int thread, int64_t first, int64_t last) {
    std::vector<T> m(t.n_pairs);
    std::vector<V> by_y(s.n_h), by_x(s.n_d);
    T* result = shares.of(thread);
    for (int64_t e = first * LANES; e < std::min(s.n_edges, last * LANES); ++e) {
      t.contract(s.y + e * s.n_h, m.data());
      const T *w = s.w + e * s.w_row(), *x = s.x + s.neighbor[e] * s.x_row(), *from = g + s.center[e] * s.g_row();
      T* to = result + s.neighbor[e] * s.x_row();
      std::fill(by_y.begin(), by_y.end(), V{});
      for (int c = 0; c < s.channels; c += W) {
        std::fill(by_x.begin(), by_x.end(), V{});
        for (int p = 0; p < t.n_paths; ++p) {
          const V weight = load(w + p * s.channels + c);
          V by_w = {};
          for (int q = t.path_start[p]; q < t.path_start[p + 1]; ++q) {
            const V gq = load(from + q * s.channels + c), u = weight * gq;
            V sum = {};
            for (int k = t.rows[q]; k < t.rows[q + 1]; ++k) {
              const auto& pair = t.pairs[k];
              const V xd = load(x + pair.d * s.channels + c), ux = u * xd;
              sum += m[k] * xd;
              by_x[pair.d] += m[k] * u;
              for (int n = pair.first; n < pair.last; ++n) by_y[t.h[n]] += t.value[n] * ux;
            }
            by_w += gq * sum;
          }
          store(by.w + e * s.w_row() + p * s.channels + c, by_w);
        }
        for (int d = 0; d < s.n_d; ++d) {
          T* place = to + d * s.channels + c;
          store(place, load(place) + by_x[d]);
        }
      }
      for (int h = 0; h < s.n_h; ++h) by.y[e * s.n_h + h] = sum<T>(by_y[h]);
    }
  });
  shares.add_up();
}

// The gradient of the three results of `convolution_backward`, weighted by `along`: that of
//
//     S(g, w', y, x) + S(g, w, y', x) + S(g, w, y, x')
//
// with w', y', x' = along, by g, w, y and x; those by g and x are added to. A name that ends in _t is a tangent.
template <typename T>
void convolution_second(const Edges<T>& s, const T* g, const EdgeGradient<const T>& along, int64_t n_points, T* by_g,
                        const EdgeGradient<T>& by, int threads) {
  typedef typename Vec<T>::type V;
  constexpr int W = Vec<T>::width;
  const Coefficients<T>& t = s.table;
  threads = s.useful(threads, n_points);
  Shares<T> shares_x(by.x, n_points * s.x_row(), threads), shares_g(by_g, n_points * s.g_row(), threads);
  in_parallel(threads, n_blocks(s.n_edges), [&](int thread, int64_t first, int64_t last) {
    std::vector<T> m(t.n_pairs), m_t(t.n_pairs);
    std::vector<V> by_y(s.n_h), by_x(s.n_d);
    T *result_x = shares_x.of(thread), *result_g = shares_g.of(thread);
    for (int64_t e = first * LANES; e < std::min(s.n_edges, last * LANES); ++e) {
      t.contract(s.y + e * s.n_h, m.data());
      t.contract(along.y + e * s.n_h, m_t.data());
      const int64_t at_x = s.neighbor[e] * s.x_row(), at_g = s.center[e] * s.g_row();
      const T *w = s.w + e * s.w_row(), *w_t = along.w + e * s.w_row(), *x = s.x + at_x, *x_t = along.x + at_x;
      std::fill(by_y.begin(), by_y.end(), V{});
      for (int c = 0; c < s.channels; c += W) {
        std::fill(by_x.begin(), by_x.end(), V{});
        for (int p = 0; p < t.n_paths; ++p) {
          const V weight = load(w + p * s.channels + c), weight_t = load(w_t + p * s.channels + c);
          V by_w = {};
          for (int q = t.path_start[p]; q < t.path_start[p + 1]; ++q) {
            const V gq = load(g + at_g + q * s.channels + c), u = weight * gq, u_t = weight_t * gq;
            V sum = {}, sum_t = {};
            for (int k = t.rows[q]; k < t.rows[q + 1]; ++k) {
              const auto& pair = t.pairs[k];
              const V xd = load(x + pair.d * s.channels + c), xd_t = load(x_t + pair.d * s.channels + c);
              const V ux = u_t * xd + u * xd_t;
              sum += m[k] * xd;
              sum_t += m_t[k] * xd + m[k] * xd_t;
              by_x[pair.d] += m[k] * u_t + m_t[k] * u;
              for (int n = pair.first; n < pair.last; ++n) by_y[t.h[n]] += t.value[n] * ux;
            }
            by_w += gq * sum_t;
            T* place = result_g + at_g + q * s.channels + c;
            store(place, load(place) + weight_t * sum + weight * sum_t);
          }
          store(by.w + e * s.w_row() + p * s.channels + c, by_w);
        }
        for (int d = 0; d < s.n_d; ++d) {
          T* place = result_x + at_x + d * s.channels + c;
          store(place, load(place) + by_x[d]);
        }
      }
      for (int h = 0; h < s.n_h; ++h) by.y[e * s.n_h + h] = sum<T>(by_y[h]);
    }
  });
  shares_x.add_up();
  shares_g.add_up();
}

}  // namespace npcalc
