// Sums of products in registers, for convolutions.
#pragma once

#include "common.h"

namespace paddle_attn {

constexpr Index kFilters = kLanes == 16 ? 8 : 4;  // that share the loaded places
constexpr Index kVectors = 3;  // kFilters * kVectors sums, kVectors places and a weight fill the registers

inline Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

// A pitch of at least `size` floats and a vector more, an odd number of cache lines: at distances of a power
// of two the rows would evict each other from the cache.
inline Index pitch_of(Index size) { return ceil_divide(size + kLanes, 16) / 2 * 32 + 16; }

// Exchanges the elements between rows and lanes whose numbers differ in the bit `step`.
template <int step>
inline void exchange(Vector* rows) {
  Lanes low, high;
  for (int i = 0; i < kLanes; ++i) {
    const int other = static_cast<int>(kLanes) + (i ^ step);
    low[i] = i & step ? other : i;
    high[i] = i & step ? static_cast<int>(kLanes) + i : i ^ step;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & step || i + step >= kLanes) continue;
    const Vector a = rows[i], b = rows[i + step];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + step] = __builtin_shuffle(a, b, high);
  }
}

// to[j, i] = from[i, j] for i, j < kLanes
inline void transpose(const float* from, Index from_pitch, float* to, Index to_pitch) {
  Vector rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = load(from + i * from_pitch);
  exchange<1>(rows);
  exchange<2>(rows);
  exchange<4>(rows);
  exchange<8>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) std::memcpy(to + i * to_pitch, &rows[i], sizeof rows[i]);
}

// Bands of rows of places, counted through all images. Each thread processes whole bands.
struct Bands {
  Index rows, columns;     // of an image
  Index all;               // rows of all images
  Index band_rows, bands;  // each band has band_rows rows, the last one has the rest
  Index max_run;           // rows of a band in one image

  // `fitting` is the largest number of rows of a band.
  Bands(Index batch, Index rows, Index columns, Index fitting)
      : rows(rows), columns(columns), all(batch * rows) {
    const Index threads = omp_get_max_threads();
    bands = std::max(ceil_divide(all, std::max<Index>(fitting, 1)), std::min(all, threads));
    bands = std::min(all, ceil_divide(bands, threads) * threads);  // the same number for every thread
    band_rows = ceil_divide(all, bands);
    bands = ceil_divide(all, band_rows);
    max_run = std::min(rows, band_rows);
  }

  Index first(Index band) const { return band * band_rows; }
  Index last(Index band) const { return std::min(all, first(band) + band_rows); }
  Index places(Index band) const { return (last(band) - first(band)) * columns; }
  Index max_places() const { return band_rows * columns; }

  // Calls f(image, its first row, number of rows, their first place in the band) for each image in a band.
  template <class F>
  void for_each_run(Index band, F f) const {
    for (Index r = first(band); r < last(band);) {
      const Index number = std::min(rows - r % rows, last(band) - r);
      f(r / rows, r % rows, number, (r - first(band)) * columns);
      r += number;
    }
  }
};

// to[column, row] = from[row, column], both with room for whole vectors
inline void transpose(const float* from, Index from_pitch, Index rows, Index columns, float* to,
                      Index to_pitch) {
  for (Index column = 0; column < columns; column += kLanes) {
    for (Index row = 0; row < rows; row += kLanes)
      transpose(from + row * from_pitch + column, from_pitch, to + column * to_pitch + row, to_pitch);
  }
}

// A matrix in memory: element (row, column) is at row * row_step + column * column_step.
struct Matrix {
  const float* at;
  Index row_step, column_step;
};

// Memory that will be read soon: a product fetches `step` floats of it for each row of b.
struct Ahead {
  const float* at;
  Index step;
};

// kFilters rows (or the last ones) and `vectors` vectors of columns of a product, see multiply
template <int vectors>
void multiply_block(const Matrix& a, Index rows, Index inner, const float* b, Index b_pitch, bool add,
                    float* to, Index pitch, Ahead one, Ahead other) {
  const float* left[kFilters];  // a row after the last one repeats it, and is not stored
  for (Index f = 0; f < kFilters; ++f) left[f] = a.at + std::min(f, rows - 1) * a.row_step;
  Vector sums[kFilters][vectors] = {};
  for (Index i = 0; i < inner; ++i, b += b_pitch) {
    __builtin_prefetch(one.at, 0, 2);
    __builtin_prefetch(other.at, 0, 2);
    one.at += one.step, other.at += other.step;
    Vector right[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) right[v] = load(b + v * kLanes);
#pragma GCC unroll 8
    for (int f = 0; f < kFilters; ++f) {
      const float factor = *left[f];
      left[f] += a.column_step;
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sums[f][v] += factor * right[v];
    }
  }
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
    if (f < rows) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        float* target = to + f * pitch + v * kLanes;
        const Vector found = add ? load(target) + sums[f][v] : sums[f][v];
        std::memcpy(target, &found, sizeof found);
      }
    }
  }
}

// Memory that the next product reads
struct Next {
  const float* at = nullptr;
  Index floats = 0;

  // The part for one of some calls, each for `inner` rows of b. Without a next one: what is in the cache.
  Ahead part(Index call, Index calls, Index inner, const float* cached) const {
    if (!floats) return {cached, 0};
    const Index step = ceil_divide(floats, calls * inner);
    return {at + std::min(call * inner, floats / step) * step, step};
  }
};

// to = a b, or to += a b: a [rows, inner], b [inner, columns], to [rows, columns]. Whole vectors of b are
// read and of `to` are written: their pitches have room for them. Meanwhile the next operands are fetched
// into the second level of the cache: without that a product of cold memory takes twice as long.
inline void multiply(const Matrix& a, Index rows, Index inner, const float* b, Index b_pitch, Index columns,
                     bool add, float* to, Index pitch, Next one = {}, Next other = {}) {
  const Index vectors = ceil_divide(columns, kLanes), blocks = ceil_divide(vectors, kVectors);
  const Index calls = blocks * ceil_divide(rows, kFilters);
  Index call = 0;
  for (Index block = 0; block < blocks; ++block) {  // of two or three vectors
    const Index first = block * vectors / blocks, number = (block + 1) * vectors / blocks - first;
    const auto form = number == 3 ? multiply_block<3> : number == 2 ? multiply_block<2> : multiply_block<1>;
    for (Index row = 0; row < rows; row += kFilters, ++call) {
      form({a.at + row * a.row_step, a.row_step, a.column_step}, std::min(kFilters, rows - row), inner,
           b + first * kLanes, b_pitch, add, to + row * pitch + first * kLanes, pitch,
           one.part(call, calls, inner, b), other.part(call, calls, inner, b));
    }
  }
}

struct Tap {
  Index distance;  // from a place, in the copies of one channel
  Index weight;    // its element of the k x k of a filter
};

// w in the order in which sum_places reads it: [groups of kFilters outputs, inputs, taps, kFilters].
// Element (o, i, tap) is at o * output_step + i * input_step + tap.weight.
inline void pack(const float* w, Index outputs, Index inputs, Index output_step, Index input_step,
          const std::vector<Tap>& taps, float* packed) {
  for (Index group = 0; group < outputs; group += kFilters) {
    for (Index i = 0; i < inputs; ++i) {
      for (const Tap& tap : taps) {
        for (Index o = group; o < group + kFilters; ++o)
          *packed++ = o < outputs ? w[o * output_step + i * input_step + tap.weight] : 0.0f;
      }
    }
  }
}

inline Index packed_floats(Index outputs, Index inputs, Index taps) {
  return ceil_divide(outputs, kFilters) * kFilters * inputs * taps;
}

// kFilters outputs at `count` places, at most vectors * kLanes
template <int vectors>
void sum_vectors(const float* from, Index inputs, Index input_step, const std::vector<Tap>& taps,
                 const float* weights, Index count, float* to, Index outputs, Index output_step) {
  Vector sums[kFilters][vectors] = {};
  for (Index i = 0; i < inputs; ++i, from += input_step) {
    for (const Tap& tap : taps) {
      Vector x[vectors];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) x[v] = load(from + tap.distance + v * kLanes);
#pragma GCC unroll 8
      for (int f = 0; f < kFilters; ++f) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sums[f][v] += weights[f] * x[v];
      }
      weights += kFilters;
    }
  }
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
    if (f < outputs) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        store(sums[f][v], to + f * output_step + v * kLanes, count - v * kLanes);
      }
    }
  }
}

// All outputs at `places` places: to[o * output_step + place]
inline void sum_places(const float* copies, Index inputs, Index input_step, const std::vector<Tap>& taps,
                const float* packed, Index places, float* to, Index outputs, Index output_step) {
  const Index vectors = ceil_divide(places, kLanes), blocks = ceil_divide(vectors, kVectors);
  for (Index o = 0; o < outputs; o += kFilters) {
    const float* weights = packed + o * inputs * static_cast<Index>(taps.size());
    for (Index block = 0; block < blocks; ++block) {  // of two or three vectors
      const Index first = block * vectors / blocks * kLanes, last = (block + 1) * vectors / blocks * kLanes;
      const Index number = (last - first) / kLanes, count = std::min(last, places) - first;
      const auto form = number == 3 ? sum_vectors<3> : number == 2 ? sum_vectors<2> : sum_vectors<1>;
      form(copies + first, inputs, input_step, taps, weights, count, to + o * output_step + first,
           outputs - o, output_step);
    }
  }
}

}  // namespace paddle_attn
