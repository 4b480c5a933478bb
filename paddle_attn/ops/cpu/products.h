// Sums of products in registers, for convolutions. A vector holds adjoining places of a plane.
#pragma once

#include "common.h"

namespace paddle_attn {

#if defined(__AVX512F__)
constexpr Index kLanes = 16;   // of a vector
constexpr Index kFilters = 8;  // that share the loaded places
#elif defined(__AVX__)
constexpr Index kLanes = 8;
constexpr Index kFilters = 4;
#else
constexpr Index kLanes = 4;
constexpr Index kFilters = 4;
#endif
constexpr Index kVectors = 3;  // kFilters * kVectors sums, kVectors places and a weight fill the registers

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef int32_t Lanes __attribute__((vector_size(4 * kLanes)));

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The same, into a register: without this, GCC loads it again for each product.
inline Vector load_once(const float* from) {
  Vector v = load(from);
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__AVX__)
  asm("" : "+x"(v));
#endif
  return v;
}

inline void store(const Vector& v, float* to, Index count) {
  if (count >= kLanes) {
    std::memcpy(to, &v, sizeof v);
  } else {
    for (Index i = 0; i < count; ++i) to[i] = v[i];
  }
}

// a[i] + a[i ^ step] where the bit `step` of i is clear, the same of b where it is set
template <int step>
inline Vector fold(const Vector& a, const Vector& b) {
  Lanes kept, moved;
  for (int i = 0; i < kLanes; ++i) {
    const int from = i & step ? static_cast<int>(kLanes) : 0;
    kept[i] = from + i, moved[i] = from + (i ^ step);
  }
  return __builtin_shuffle(a, b, kept) + __builtin_shuffle(a, b, moved);
}

// The sum of the lanes of vector f, for each f < kFilters, in lane f
inline Vector sums_of_lanes(const Vector* v) {
  const Vector a = fold<2>(fold<1>(v[0], v[1]), fold<1>(v[2], v[3]));
  if constexpr (kFilters == 8) {
    const Vector b = fold<2>(fold<1>(v[4], v[5]), fold<1>(v[6], v[7])), both = fold<4>(a, b);
    return fold<8>(both, both);
  } else if constexpr (kLanes == 8) {
    return fold<4>(a, a);
  } else {
    return a;
  }
}

inline Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

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

// sums[tap, f] += sum over images and places of dy[f, place] x[place + distance of the tap]. The steps lead
// to the next image, `pitch` leads to the next f.
template <int taps>
void sum_products(const float* x, const float* dy, Index x_step, Index dy_step, Index pitch, Index images,
                  Index places, const Tap* tap, float* sums) {
  Vector found[taps][kFilters] = {};
  Lanes used;
  for (int i = 0; i < kLanes; ++i) used[i] = i < places % kLanes ? -1 : 0;
  for (Index n = 0; n < images; ++n, x += x_step, dy += dy_step) {
    Index p = 0;
    for (; p + kLanes <= places; p += kLanes) {
      Vector at[taps];
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) at[t] = load(x + tap[t].distance + p);
#pragma GCC unroll 8
      for (int f = 0; f < kFilters; ++f) {
        const Vector gradient = load_once(dy + f * pitch + p);
#pragma GCC unroll 8
        for (int t = 0; t < taps; ++t) found[t][f] += gradient * at[t];
      }
    }
    if (p < places) {
      for (int t = 0; t < taps; ++t) {
        const Vector all = load(x + tap[t].distance + p), at = used ? all : Vector{};
        for (int f = 0; f < kFilters; ++f) {
          const Vector gradients = load(dy + f * pitch + p);
          found[t][f] += (used ? gradients : Vector{}) * at;
        }
      }
    }
  }
  for (int t = 0; t < taps; ++t) {
    const Vector of_filters = sums_of_lanes(found[t]);
    for (int f = 0; f < kFilters; ++f) sums[t * kFilters + f] += of_filters[f];
  }
}

}  // namespace paddle_attn
