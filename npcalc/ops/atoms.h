// What PaiNN does on each atom by itself: perceptrons of one hidden layer, and the update block; and their gradients.
//
// Blocks of LANES atoms go through all products while they are in the caches. Of the way forward only what the gradient
// cannot do without is stored. A name that begins with by_ is a derivative by what the rest of it names.
#pragma once

#include "common.h"

namespace npcalc {

// e to the power of x: 2^k e^r with |r| <= log(2) / 2, by the series of e^r.
template <typename T>
inline typename Vec<T>::type exponential(typename Vec<T>::type x) {
  typedef typename Vec<T>::type V;
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> I;
  typedef I VI __attribute__((vector_size(Vec<T>::bytes)));
  constexpr int MANTISSA = sizeof(T) == 4 ? 23 : 52, TERMS = sizeof(T) == 4 ? 8 : 14;
  constexpr I BIAS = sizeof(T) == 4 ? 127 : 1023;
  constexpr T LIMIT = sizeof(T) == 4 ? 87 : 708;
  // log(2) in two parts, the first with so few digits that products with k are exact.
  constexpr T HIGH = sizeof(T) == 4 ? T(0.693359375) : T(6.93147180369123816490e-01);
  constexpr T LOW = sizeof(T) == 4 ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  x = x > LIMIT ? V{} + LIMIT : x < -LIMIT ? V{} - LIMIT : x;
  const T magic = T(1.5) * T(I(1) << MANTISSA);  // adding it rounds to whole numbers
  const V shifted = x * T(1.44269504088896340736) + magic, k = shifted - magic;
  const V r = (x - k * HIGH) - k * LOW;
  V p = V{} + T(1);
  for (int n = TERMS; n > 0; --n) p = T(1) + p * r * (T(1) / T(n));
  const VI power = (__builtin_convertvector(k, VI) + BIAS) << MANTISSA;
  V scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

template <typename T>
inline typename Vec<T>::type sigmoid(typename Vec<T>::type x) {
  return T(1) / (T(1) + exponential<T>(-x));
}

// Calls work(first, count, thread's memory) for all blocks of n atoms.
template <typename T, typename F>
void over_atoms(int64_t n, int threads, const F& work) {
  in_parallel(useful_threads(threads, n), n_blocks(n), [&](int, int64_t first, int64_t last) {
    for (int64_t x = first * LANES; x < std::min(n, last * LANES); x += LANES)
      work(x, int(std::min<int64_t>(LANES, n - x)), Memory<T>::of_thread());
  });
}

// y = W1 silu(W0 x + b0) + b1. Hidden values are a multiple of 16.
template <typename T>
struct Perceptron {
  int inputs, hidden, outputs;
  const T *w0, *b0, *w1, *b1, *w0_back, *w1_back;

  // Of packed weights one after the other, in the order of the members.
  Perceptron(const T* from, int inputs, int hidden, int outputs) : inputs(inputs), hidden(hidden), outputs(outputs) {
    const auto next = [&](int rows, int columns) {
      const T* part = from;
      from += rows * padded(columns);
      return part;
    };
    w0 = next(inputs, hidden);
    b0 = next(1, hidden);
    w1 = next(hidden, outputs);
    b1 = next(1, outputs);
    w0_back = next(hidden, inputs);
    w1_back = next(outputs, hidden);
  }

  static int64_t size(int inputs, int hidden, int outputs) {
    return int64_t(inputs + outputs + 1) * padded(hidden) + (hidden + 1) * padded(outputs) + hidden * padded(inputs);
  }
  int wide() const { return padded(hidden); }

  // Hidden values h before the function, and y, both with padded rows, of x with a row of x_row numbers.
  void forward(const T* x, int x_row, int rows, T* h, T* z, T* y) const {
    constexpr int W = Vec<T>::width;
    product<T>(x, x_row, 1, w0, inputs, hidden, b0, rows, h);
    for (int l = 0; l < rows; ++l)
      for (int c = 0; c < hidden; c += W) {
        const auto u = load(h + l * wide() + c);
        store(z + l * wide() + c, u * sigmoid<T>(u));
      }
    product<T>(z, wide(), 1, w1, hidden, outputs, b1, rows, y);
  }

  // Derivative by x, with padded rows, of that by y with a row of y_row numbers; z is overwritten.
  void backward(const T* by_y, int y_row, const T* h, int h_row, int rows, T* z, T* by_x) const {
    constexpr int W = Vec<T>::width;
    product<T>(by_y, y_row, 1, w1_back, outputs, hidden, nullptr, rows, z);
    for (int l = 0; l < rows; ++l)
      for (int c = 0; c < hidden; c += W) {
        const auto u = load(h + l * h_row + c), s = sigmoid<T>(u);
        store(z + l * wide() + c, load(z + l * wide() + c) * s * (T(1) + u * (T(1) - s)));
      }
    product<T>(z, wide(), 1, w0_back, hidden, inputs, nullptr, rows, by_x);
  }
};

// Copies rows between arrays of other widths.
template <typename T>
void copy_rows(const T* from, int64_t from_row, int rows, int columns, T* to, int64_t to_row) {
  for (int l = 0; l < rows; ++l) std::copy(from + l * from_row, from + l * from_row + columns, to + l * to_row);
}

// y (n, outputs) and h (n, hidden) of x (n, inputs) whose rows are x_row numbers apart.
template <typename T>
void perceptron(const Perceptron<T>& p, int64_t n, const T* x, int64_t x_row, T* y, T* h, int threads) {
  over_atoms<T>(n, threads, [&](int64_t first, int count, Memory<T>& memory) {
    T *x_own = memory.take(LANES * p.inputs), *h_own = memory.take(LANES * p.wide());
    T *z = memory.take(LANES * p.wide()), *y_own = memory.take(LANES * padded(p.outputs));
    copy_rows(x + first * x_row, x_row, count, p.inputs, x_own, p.inputs);
    p.forward(x_own, p.inputs, count, h_own, z, y_own);
    copy_rows(h_own, p.wide(), count, p.hidden, h + first * p.hidden, p.hidden);
    copy_rows(y_own, padded(p.outputs), count, p.outputs, y + first * p.outputs, p.outputs);
  });
}

// Derivative by x (n, inputs) of that by y (n, outputs).
template <typename T>
void perceptron_backward(const Perceptron<T>& p, int64_t n, const T* by_y, const T* h, T* by_x, int threads) {
  over_atoms<T>(n, threads, [&](int64_t first, int count, Memory<T>& memory) {
    T *y_own = memory.take(LANES * p.outputs), *h_own = memory.take(LANES * p.hidden);
    T *z = memory.take(LANES * p.wide()), *x_own = memory.take(LANES * padded(p.inputs));
    copy_rows(by_y + first * p.outputs, p.outputs, count, p.outputs, y_own, p.outputs);
    copy_rows(h + first * p.hidden, p.hidden, count, p.hidden, h_own, p.hidden);
    p.backward(y_own, p.outputs, h_own, p.hidden, count, z, x_own);
    copy_rows(x_own, padded(p.inputs), count, p.inputs, by_x + first * p.inputs, p.inputs);
  });
}

// The update block, eqs. 9 and 10 of arXiv:2102.03150, on rows of C scalars and 3 C vectors: with V, U = mix v,
// n = sqrt(|V|^2 + epsilon) and a = W1 silu(W0 [s, n] + b0) + b1, s' = s + a_ss + a_sv (V . U), v' = v + a_vv U.
template <typename T>
struct Update {
  int channels;  // a multiple of 16
  T epsilon;
  const T *mix, *mix_back;
  Perceptron<T> perceptron;  // 2 C to 3 C

  // Of packed weights one after the other, in the order of the members.
  Update(const T* from, int channels, T epsilon)
      : channels(channels), epsilon(epsilon), mix(from), mix_back(from + 2 * channels * channels),
        perceptron(mix_back + 2 * channels * padded(channels), 2 * channels, channels, 3 * channels) {}

  static int64_t size(int C) { return 2 * C * int64_t(C + padded(C)) + Perceptron<T>::size(2 * C, C, 3 * C); }

  // Numbers of an atom that the gradient needs: V, U, h, a_vv and a_sv.
  int kept() const { return 9 * channels; }

  // New state (n, 4 C), and what is to be kept, of x (n, 4 C) plus messages ds (n, C) and dv (n, 3 C).
  void forward(int64_t n, const T* x, const T* ds, const T* dv, T* out, T* keep, int threads) const {
    typedef typename Vec<T>::type V;
    constexpr int W = Vec<T>::width;
    const int C = channels, wide = padded(3 * C);
    over_atoms<T>(n, threads, [&](int64_t first, int count, Memory<T>& memory) {
      T *v = memory.take(3 * LANES * C), *vu = memory.take(3 * LANES * 2 * C), *sn = memory.take(LANES * 2 * C);
      T *h = memory.take(LANES * perceptron.wide()), *z = memory.take(LANES * perceptron.wide());
      T* a = memory.take(LANES * wide);
      for (int l = 0; l < count; ++l) {
        const int64_t i = first + l;
        for (int c = 0; c < C; c += W) store(sn + l * 2 * C + c, load(x + i * 4 * C + c) + load(ds + i * C + c));
        for (int c = 0; c < 3 * C; c += W)
          store(v + l * 3 * C + c, load(x + i * 4 * C + C + c) + load(dv + i * 3 * C + c));
      }
      product<T>(v, C, 1, mix, C, 2 * C, nullptr, 3 * count, vu);
      for (int l = 0; l < count; ++l)
        for (int c = 0; c < C; c += W) {
          store(sn + l * 2 * C + C + c, norm(vu + l * 6 * C + c, 2 * C));
        }
      perceptron.forward(sn, 2 * C, count, h, z, a);
      for (int l = 0; l < count; ++l) {
        const int64_t i = first + l;
        T *to = out + i * 4 * C, *k = keep + i * kept();
        for (int c = 0; c < C; c += W) {
          const T *own = vu + l * 6 * C + c, *from = a + l * wide + c;
          const V a_vv = load(from + C), a_sv = load(from + 2 * C);
          V inner = {};
          for (int q = 0; q < 3; ++q) {
            const V x_v = load(own + q * 2 * C), x_u = load(own + q * 2 * C + C);
            inner += x_v * x_u;
            store(to + (1 + q) * C + c, load(v + (3 * l + q) * C + c) + a_vv * x_u);
            store(k + q * C + c, x_v);
            store(k + (3 + q) * C + c, x_u);
          }
          store(to + c, load(sn + l * 2 * C + c) + load(from) + a_sv * inner);
          store(k + 6 * C + c, load(h + l * perceptron.wide() + c));
          store(k + 7 * C + c, a_vv);
          store(k + 8 * C + c, a_sv);
        }
      }
    });
  }

  // Derivative by the state (n, 4 C), which is that by the messages too, of that by the new one.
  void backward(int64_t n, const T* by_out, const T* keep, T* by_x, int threads) const {
    typedef typename Vec<T>::type V;
    constexpr int W = Vec<T>::width;
    const int C = channels;
    over_atoms<T>(n, threads, [&](int64_t first, int count, Memory<T>& memory) {
      T *by_a = memory.take(LANES * 3 * C), *h = memory.take(LANES * C), *z = memory.take(LANES * perceptron.wide());
      T *by_sn = memory.take(LANES * 2 * C), *by_vu = memory.take(3 * LANES * 2 * C);
      T* by_v = memory.take(3 * LANES * padded(C));
      for (int l = 0; l < count; ++l) {
        const T *by = by_out + (first + l) * 4 * C, *k = keep + (first + l) * kept();
        T* to = by_a + l * 3 * C;
        for (int c = 0; c < C; c += W) {
          V by_vv = {}, inner = {};
          for (int q = 0; q < 3; ++q) {
            const V x_u = load(k + (3 + q) * C + c);
            by_vv += load(by + (1 + q) * C + c) * x_u;
            inner += load(k + q * C + c) * x_u;
          }
          store(to + c, load(by + c));
          store(to + C + c, by_vv);
          store(to + 2 * C + c, load(by + c) * inner);
          store(h + l * C + c, load(k + 6 * C + c));
        }
      }
      perceptron.backward(by_a, 3 * C, h, C, count, z, by_sn);
      for (int l = 0; l < count; ++l) {
        const T *by = by_out + (first + l) * 4 * C, *k = keep + (first + l) * kept();
        for (int c = 0; c < C; c += W) {
          const V by_inner = load(by + c) * load(k + 8 * C + c), a_vv = load(k + 7 * C + c);
          const V stretch = load(by_sn + l * 2 * C + C + c) / norm(k + c, C);
          for (int q = 0; q < 3; ++q) {
            const V x_v = load(k + q * C + c), x_u = load(k + (3 + q) * C + c);
            T* to = by_vu + (3 * l + q) * 2 * C + c;
            store(to, by_inner * x_u + stretch * x_v);
            store(to + C, load(by + (1 + q) * C + c) * a_vv + by_inner * x_v);
          }
        }
      }
      product<T>(by_vu, 2 * C, 1, mix_back, 2 * C, C, nullptr, 3 * count, by_v);
      for (int l = 0; l < count; ++l) {
        const T* by = by_out + (first + l) * 4 * C;
        T* to = by_x + (first + l) * 4 * C;
        for (int c = 0; c < C; c += W) {
          store(to + c, load(by + c) + load(by_sn + l * 2 * C + c));
          for (int q = 0; q < 3; ++q)
            store(to + (1 + q) * C + c, load(by + (1 + q) * C + c) + load(by_v + (3 * l + q) * padded(C) + c));
        }
      }
    });
  }

 private:
  typedef typename Vec<T>::type Vector;

  // sqrt(|V|^2 + epsilon) of channels of an atom, whose components are `row` numbers apart.
  Vector norm(const T* v, int row) const {
    Vector sum = {};
    for (int q = 0; q < 3; ++q) sum += load(v + q * row) * load(v + q * row);
    T part[Vec<T>::width];
    store(part, Vector(sum + epsilon));
    for (T& p : part) p = std::sqrt(p);
    return load(part);
  }
};

}  // namespace npcalc
