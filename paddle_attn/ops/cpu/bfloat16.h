// Sums of products of bfloat16 numbers in float32, for convolutions. Needs AVX512-BF16.
//
// A word holds two bfloat16 numbers that follow each other in the sum: one instruction multiplies sixteen
// words by sixteen others and adds both products of each to a float. Every float32 number is rounded once,
// to the nearest (ties to even), when it is put into a word.
#pragma once

#include "products.h"

#ifndef __AVX512BF16__
#error "the compiler does not know AVX512-BF16: expected GCC 10 or newer"
#endif

namespace paddle_attn {

using Word = uint32_t;
typedef Word Words __attribute__((vector_size(64)));

inline Words load_words(const Word* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

inline Vector add_products(const Vector& sum, const Words& a, const Words& b) {
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// Every second lane of two vectors, and the inverse
inline Vector permute(const Vector& a, const Vector& b, const Lanes& order) {
  return __builtin_shuffle(a, b, order);
}
constexpr Lanes kEven = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
constexpr Lanes kOdd = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
constexpr Lanes kLower = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
constexpr Lanes kUpper = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

// The first `count` pixels of a row, from its even and its odd pixels
inline void store_pixels(const Vector& even, const Vector& odd, float* to, Index count) {
  _mm512_mask_storeu_ps(to, first_lanes(count), (__m512)permute(even, odd, kLower));
  if (count > kLanes) {
    _mm512_mask_storeu_ps(to + kLanes, first_lanes(count - kLanes), (__m512)permute(even, odd, kUpper));
  }
}

// Word i holds low[i] and high[i].
inline Words zip(const Vector& low, const Vector& high) {
  typedef int16_t Halves __attribute__((vector_size(64)));
  constexpr Halves order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (Words)_mm512_permutexvar_epi16((__m512i)order,
                                         (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
}

// Word i holds v[2 i] and v[2 i + 1].
inline __m256i eight_words(const Vector& v) { return (__m256i)_mm512_cvtneps_pbh((__m512)v); }

// The weights of kFilters outputs for two inputs: lane 2 f + i holds w[f * output_step + i * input_step].
// Only `outputs` and `inputs` of them exist, the others are zero.
struct FilterLanes {
  __m512i offsets;
  __mmask16 used;

  FilterLanes(Index outputs, Index inputs, Index output_step, Index input_step) : used(0) {
    int32_t of_lane[16];
    for (int lane = 0; lane < 16; ++lane) {
      of_lane[lane] = static_cast<int32_t>(lane / 2 * output_step + lane % 2 * input_step);
      if (lane / 2 < outputs && lane % 2 < inputs) used |= static_cast<__mmask16>(1u << lane);
    }
    std::memcpy(&offsets, of_lane, sizeof offsets);
  }
  Vector load(const float* w) const {
    return (Vector)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), used, offsets, w, 4);
  }
};

// kFilters outputs at `count` places, at most vectors * kLanes: the sum over d < depth of weights[d, f] and
// from[offsets[d] + place], plus the bias of the output, unless it is null
template <int vectors>
void sum_words(const Word* from, const int32_t* offsets, Index depth, const Word* weights, const float* bias,
               Index count, float* to, Index outputs, Index output_step) {
  Vector sums[kFilters][vectors] = {};
  for (Index d = 0; d < depth; ++d, weights += kFilters) {
    const Word* at = from + offsets[d];
    Words x[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) x[v] = load_words(at + v * kLanes);
#pragma GCC unroll 8
    for (int f = 0; f < kFilters; ++f) {
      const Words w = (Words)_mm512_set1_epi32(static_cast<int>(weights[f]));
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sums[f][v] = add_products(sums[f][v], w, x[v]);
    }
  }
#pragma GCC unroll 8
  for (int f = 0; f < kFilters; ++f) {
    if (f < outputs) {
      const float shift = bias ? bias[f] : 0.0f;
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        _mm512_mask_storeu_ps(to + f * output_step + v * kLanes, first_lanes(count - v * kLanes),
                              (__m512)(sums[f][v] + shift));
      }
    }
  }
}

// kFilters outputs at `places` places. It reads up to 2 * kLanes words past them.
inline void sum_words_at(const Word* from, const int32_t* offsets, Index depth, const Word* weights,
                         const float* bias, Index places, float* to, Index outputs, Index output_step) {
  const Index vectors = ceil_divide(places, kLanes), blocks = ceil_divide(vectors, kVectors);
  for (Index block = 0; block < blocks; ++block) {  // of two or three vectors
    const Index first = block * vectors / blocks * kLanes, last = (block + 1) * vectors / blocks * kLanes;
    const Index number = (last - first) / kLanes;
    const auto form = number == 3 ? sum_words<3> : number == 2 ? sum_words<2> : sum_words<1>;
    form(from + first, offsets, depth, weights, bias, std::min(last, places) - first, to + first, outputs,
         output_step);
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
  static_assert(kFilters == 8 && kLanes == 16);
  const Vector a = fold<2>(fold<1>(v[0], v[1]), fold<1>(v[2], v[3]));
  const Vector b = fold<2>(fold<1>(v[4], v[5]), fold<1>(v[6], v[7])), both = fold<4>(a, b);
  return fold<8>(both, both);
}

// sums[t, f] += the sum over `words` of the products of dy[f, word] and x[offsets[t] + word], for kFilters f;
// `pitch` leads to the next f
template <int taps>
void dot_words(const Word* x, const Index* offsets, const Word* dy, Index pitch, Index words, float* sums) {
  Vector found[taps][kFilters] = {};
  Index p = 0;
  for (; p + kLanes <= words; p += kLanes) {
    Words at[taps];
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t) at[t] = load_words(x + offsets[t] + p);
#pragma GCC unroll 8
    for (int f = 0; f < kFilters; ++f) {
      Words gradient = load_words(dy + f * pitch + p);
      asm("" : "+v"(gradient));  // into a register: without this, GCC loads it for each product
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) found[t][f] = add_products(found[t][f], gradient, at[t]);
    }
  }
  if (p < words) {
    const __mmask16 used = first_lanes(words - p);
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t) {
      const Words at = (Words)_mm512_maskz_loadu_epi32(used, x + offsets[t] + p);
#pragma GCC unroll 8
      for (int f = 0; f < kFilters; ++f) {
        const Words gradient = (Words)_mm512_maskz_loadu_epi32(used, dy + f * pitch + p);
        found[t][f] = add_products(found[t][f], gradient, at);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < taps; ++t) {
    const __m256 of_filters = _mm512_castps512_ps256((__m512)sums_of_lanes(found[t]));
    float* to = sums + t * kFilters;
    _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), of_filters));
  }
}

// The same for any number of taps
inline void dot_words_at(const Word* x, const Index* offsets, Index taps, const Word* dy, Index pitch,
                         Index words, float* sums) {
  for (Index t = 0; t < taps; t += 3) {
    const Index number = std::min<Index>(3, taps - t);
    const auto form = number == 3 ? dot_words<3> : number == 2 ? dot_words<2> : dot_words<1>;
    form(x, offsets + t, dy, pitch, words, sums + t * kFilters);
  }
}

// Scratch of words. Its parts start whole cache lines apart.
class WordScratch {
 public:
  explicit WordScratch(Index size, Index parts = omp_get_max_threads()) : floats_(size, parts) {}
  Word* part(Index index) const { return reinterpret_cast<Word*>(floats_.part(index)); }
  Word* of_thread() const { return reinterpret_cast<Word*>(floats_.of_thread()); }

 private:
  Scratch floats_;
};

// The gradient of a bias: the sum of dy [N, K, places] over images and places, as a tensor [K]
inline Tensor gradient_of_bias(const Tensor& dy) {
  const Shape shape = dy.shape();
  const Index filters = shape[1], places = shape[2] * shape[3];
  Tensor dbias = paddle::empty({filters}, dy.dtype(), dy.place());
  const float* from = dy.data<float>();
  float* to = dbias.data<float>();
#pragma omp parallel for
  for (Index k = 0; k < filters; ++k) {
    double total = 0.0;
    for (Index n = 0; n < shape[0]; ++n) total += sum(from + (n * filters + k) * places, places);
    to[k] = static_cast<float>(total);
  }
  return dbias;
}

}  // namespace paddle_attn
