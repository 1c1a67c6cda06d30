// Vectors of the processor, products with packed weights, memory and threads, for the other headers.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace npcalc {

constexpr int LANES = 16;  // pairs, or edges, of a block
constexpr int PANEL = 32;  // columns of a panel of packed weights

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, ACCUMULATORS = 16;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, ACCUMULATORS = 12;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, ACCUMULATORS = 16;
#else
constexpr int VECTOR_BYTES = 16, ACCUMULATORS = 8;
#endif

// Rows of so many vectors that are added up in registers; a power of two, so that blocks have no rows left over.
constexpr int rows_at_once(int vectors) { return int(std::bit_floor(unsigned(std::max(1, ACCUMULATORS / vectors)))); }

// Vectors of the processor, or shorter ones of at most MOST numbers.
template <typename T, int MOST = LANES>
struct Vec {
  static constexpr int bytes = std::min(VECTOR_BYTES, int(MOST * sizeof(T))), width = bytes / int(sizeof(T));
  typedef T type __attribute__((vector_size(bytes)));

  static type load(const T* from) {
    type x;
    std::memcpy(&x, from, bytes);
    return x;
  }
  static void store(T* to, type x) { std::memcpy(to, &x, bytes); }
  static T sum(type x) {
    T part[width];
    store(part, x);
    for (int half = width / 2; half > 0; half /= 2)
      for (int k = 0; k < half; ++k) part[k] += part[k + half];
    return part[0];
  }
};

template <typename T>
inline typename Vec<T>::type load(const T* from) {
  return Vec<T>::load(from);
}

template <typename T>
inline void store(T* to, typename Vec<T>::type x) {
  Vec<T>::store(to, x);
}

// The same numbers, kept in a register: with few of these compilers read them from memory for each product again, and
// then loads are what a loop waits for.
template <typename T>
inline typename Vec<T>::type in_register(typename Vec<T>::type x) {
#if defined(__AVX__)
  asm("" : "+v"(x));
#endif
  return x;
}

template <typename T>
inline T sum(typename Vec<T>::type x) {
  return Vec<T>::sum(x);
}

// LANES numbers, one for each pair of a block. Loops over the lanes would do, were they not unrolled into single numbers
// before compilers look for vectors in them.
template <typename T>
struct Lanes {
  typedef typename Vec<T>::type V;
  static constexpr int W = Vec<T>::width, N = LANES / W;
  V part[N];

  Lanes(T x = 0) {
    for (V& p : part) p = V{} + x;
  }
  static Lanes of(const T* from) {
    Lanes x;
    for (int n = 0; n < N; ++n) x.part[n] = load(from + n * W);
    return x;
  }
  void to(T* memory) const {
    for (int n = 0; n < N; ++n) store(memory + n * W, part[n]);
  }
  Lanes& operator+=(const Lanes& y) { return *this = *this + y; }

  friend Lanes operator+(Lanes x, const Lanes& y) {
    for (int n = 0; n < N; ++n) x.part[n] += y.part[n];
    return x;
  }
  friend Lanes operator-(Lanes x, const Lanes& y) {
    for (int n = 0; n < N; ++n) x.part[n] -= y.part[n];
    return x;
  }
  friend Lanes operator*(Lanes x, const Lanes& y) {
    for (int n = 0; n < N; ++n) x.part[n] *= y.part[n];
    return x;
  }
  friend Lanes operator/(Lanes x, const Lanes& y) {
    for (int n = 0; n < N; ++n) x.part[n] /= y.part[n];
    return x;
  }
  friend Lanes sqrt(const Lanes& x) {
    T root[LANES];
    x.to(root);
    for (int l = 0; l < LANES; ++l) root[l] = std::sqrt(root[l]);
    return of(root);
  }
};

// Vectors in space, one for each pair of a block; in memory (3, LANES).
template <typename T>
struct Space {
  Lanes<T> x[3];

  static Space of(const T* from) {
    return {Lanes<T>::of(from), Lanes<T>::of(from + LANES), Lanes<T>::of(from + 2 * LANES)};
  }
  void to(T* memory) const {
    for (int a = 0; a < 3; ++a) x[a].to(memory + a * LANES);
  }
  Space& operator+=(const Space& y) { return *this = *this + y; }

  friend Space operator+(const Space& u, const Space& v) { return {u.x[0] + v.x[0], u.x[1] + v.x[1], u.x[2] + v.x[2]}; }
  friend Space operator-(const Space& u, const Space& v) { return {u.x[0] - v.x[0], u.x[1] - v.x[1], u.x[2] - v.x[2]}; }
  friend Space operator*(const Lanes<T>& f, const Space& v) { return {f * v.x[0], f * v.x[1], f * v.x[2]}; }
  friend Lanes<T> dot(const Space& u, const Space& v) { return u.x[0] * v.x[0] + u.x[1] * v.x[1] + u.x[2] * v.x[2]; }
};

inline int padded(int columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

// The first N vectors of a panel of a product, ROWS rows at a time and fewer of what is left.
template <typename T, int N, int ROWS>
void product_rows(const T* a, int row, int step, const T* panel, int depth, const T* bias, int rows, T* out, int wide) {
  typedef typename Vec<T>::type V;
  constexpr int W = Vec<T>::width;
  int r0 = 0;
  for (; r0 + ROWS <= rows; r0 += ROWS) {
    V total[ROWS][N];
    for (int r = 0; r < ROWS; ++r)
      for (int v = 0; v < N; ++v) total[r][v] = bias ? load(bias + v * W) : V{};
    const T* x = a + r0 * row;
    for (int k = 0; k < depth; ++k) {
      V w[N];
      for (int v = 0; v < N; ++v) w[v] = in_register<T>(load(panel + k * PANEL + v * W));
      for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < N; ++v) total[r][v] += x[r * row + k * step] * w[v];
    }
    for (int r = 0; r < ROWS; ++r)
      for (int v = 0; v < N; ++v) store(out + (r0 + r) * wide + v * W, total[r][v]);
  }
  if constexpr (ROWS > 1)
    if (r0 < rows)
      product_rows<T, N, ROWS / 2>(a + r0 * row, row, step, panel, depth, bias, rows - r0, out + r0 * wide, wide);
}

// The first n vectors of a panel of a product, 1 to N.
template <typename T, int N = PANEL / Vec<T>::width>
void product_panel(int n, const T* a, int row, int step, const T* panel, int depth, const T* bias, int rows, T* out,
                   int wide) {
  if constexpr (N > 1)
    if (n < N) return product_panel<T, N - 1>(n, a, row, step, panel, depth, bias, rows, out, wide);
  product_rows<T, N, rows_at_once(N)>(a, row, step, panel, depth, bias, rows, out, wide);
}

// out[r][:columns] = bias + sum over k of a(r, k) packed[k][:] for `rows` rows, a(r, k) = a[r * row + k * step].
// Columns that fill up the last panel are left as they are where whole vectors of them do.
template <typename T>
void product(const T* a, int row, int step, const T* packed, int depth, int columns, const T* bias, int rows, T* out) {
  constexpr int W = Vec<T>::width;
  const int wide = padded(columns);
  for (int p = 0; p < wide; p += PANEL) {
    const int vectors = (std::min(PANEL, columns - p) + W - 1) / W;
    product_panel<T>(vectors, a, row, step, packed + int64_t(p) * depth, depth, bias ? bias + p : nullptr, rows, out + p, wide);
  }
}

// Adds to ROWS rows of a panel, see add_outer.
template <typename T, int ROWS>
inline void add_outer_rows(const T* a, const T* b, int wide, int count, T* panel) {
  typedef typename Vec<T>::type V;
  constexpr int W = Vec<T>::width, N = PANEL / W;
  V total[ROWS][N];
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < N; ++n) total[r][n] = load(panel + r * PANEL + n * W);
  for (int l = 0; l < count; ++l) {
    V y[N];
    for (int n = 0; n < N; ++n) y[n] = in_register<T>(load(b + l * wide + n * W));
    for (int r = 0; r < ROWS; ++r)
      for (int n = 0; n < N; ++n) total[r][n] += a[r * LANES + l] * y[n];
  }
  for (int r = 0; r < ROWS; ++r)
    for (int n = 0; n < N; ++n) store(panel + r * PANEL + n * W, total[r][n]);
}

// packed (panels, rows, PANEL) += sum over the first `count` lanes l of a[:][l] b[l][:], a (rows, LANES), b (LANES, wide).
template <typename T>
void add_outer(const T* a, int rows, const T* b, int wide, int count, T* packed) {
  constexpr int N = PANEL / Vec<T>::width, ROWS = rows_at_once(N);
  for (int p = 0; p < wide; p += PANEL) {
    T* panel = packed + int64_t(p) * rows;
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
      add_outer_rows<T, ROWS>(a + r * LANES, b + p, wide, count, panel + r * PANEL);
    for (; r < rows; ++r) add_outer_rows<T, 1>(a + r * LANES, b + p, wide, count, panel + r * PANEL);
  }
}

// Arrays of a block, in memory that a thread keeps from call to call.
template <typename T>
class Memory {
 public:
  static Memory& of_thread() {
    thread_local Memory memory;
    memory.used = 0;
    return memory;
  }

  // An array that is valid until the next block of this thread.
  T* take(int64_t size) {
    if (used == arrays.size()) arrays.emplace_back();
    std::vector<T>& array = arrays[used++];
    constexpr int64_t ALIGN = 64;
    if (int64_t(array.size()) < size + ALIGN) array.resize(size + ALIGN);
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(array.data()) + ALIGN - 1) / ALIGN * ALIGN);
  }

 private:
  size_t used = 0;
  std::deque<std::vector<T>> arrays;
};

// Calls work(thread, first, last) for shares of n blocks.
template <typename F>
void in_parallel(int threads, int64_t n, const F& work) {
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int t = omp_get_thread_num(), all = omp_get_num_threads();
      work(t, n * t / all, n * (t + 1) / all);
    }
    return;
  }
#endif
  work(0, 0, n);
}

// Rows that threads add to: the result itself for the first, copies for the others, added up at the end.
template <typename T>
class Shares {
 public:
  Shares(T* result, int64_t size, int threads) : result(result), size(size), copies(threads - 1) {
    for (std::vector<T>& copy : copies) copy.reserve(size);  // here, where it may fail
  }
  // To be called by the thread itself, which makes its copy.
  T* of(int thread) {
    if (thread == 0) return result;
    std::vector<T>& copy = copies[thread - 1];
    if (copy.empty()) copy.assign(size, 0);
    return copy.data();
  }
  void add_up() {
    in_parallel(int(copies.size()) + 1, size, [&](int, int64_t first, int64_t last) {
      for (const std::vector<T>& copy : copies)
        if (!copy.empty())
          for (int64_t x = first; x < last; ++x) result[x] += copy[x];
    });
  }

 private:
  T* result;
  int64_t size;
  std::vector<std::vector<T>> copies;
};

constexpr int64_t BLOCKS_PER_THREAD = 32;  // fewer are not worth waking a thread

inline int64_t n_blocks(int64_t n) { return (n + LANES - 1) / LANES; }

inline int useful_threads(int threads, int64_t n) {
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, n_blocks(n) / BLOCKS_PER_THREAD)));
}

}  // namespace npcalc
