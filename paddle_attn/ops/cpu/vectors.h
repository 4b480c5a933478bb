// Vectors of floats: memory, sums, the sigmoid. A vector holds adjoining places of a plane.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __AVX__
#include <immintrin.h>
#endif

namespace paddle_attn {

using Index = int64_t;

#if defined(__AVX512F__)
constexpr Index kLanes = 16;  // of a vector
#elif defined(__AVX__)
constexpr Index kLanes = 8;
#else
constexpr Index kLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef int32_t Lanes __attribute__((vector_size(4 * kLanes)));
using Whole = std::integral_constant<Index, kLanes>;  // the number of lanes of a whole vector

// Of the first `count` lanes; any count below 1 gives none
#ifdef __AVX512F__
inline __mmask16 first_lanes(Index count) {
  return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << std::max<Index>(count, 0)) - 1);
}
#else
inline Lanes first_lanes(Index count) {
  Lanes numbers;
  for (int i = 0; i < kLanes; ++i) numbers[i] = i;
  return numbers < static_cast<int32_t>(std::clamp<Index>(count, 0, kLanes));
}
#endif

inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The first `count` lanes; the others are zero
inline Vector load(const float* from, Index count) {
#ifdef __AVX512F__
  return (Vector)_mm512_maskz_loadu_ps(first_lanes(count), from);
#elif defined(__AVX__)
  return (Vector)_mm256_maskload_ps(from, (__m256i)first_lanes(count));
#else
  Vector v = {};
  for (Index i = 0; i < std::min(count, kLanes); ++i) v[i] = from[i];
  return v;
#endif
}
inline Vector load(const float* from, Whole) { return load(from); }

inline void store(const Vector& v, float* to, Whole) { std::memcpy(to, &v, sizeof v); }

// The first `count` lanes
inline void store(const Vector& v, float* to, Index count) {
#ifdef __AVX512F__
  _mm512_mask_storeu_ps(to, first_lanes(count), (__m512)v);
#elif defined(__AVX__)
  // in parts: some processors take long for a store with a mask
  if (count >= kLanes) return store(v, to, Whole());
  __m128 part = _mm256_castps256_ps128((__m256)v);
  if (count >= 4) {
    _mm_storeu_ps(to, part);
    part = _mm256_extractf128_ps((__m256)v, 1);
    to += 4;
    count -= 4;
  }
  if (count >= 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(to), part);
    part = _mm_movehl_ps(part, part);
    to += 2;
    count -= 2;
  }
  if (count >= 1) _mm_store_ss(to, part);
#else
  for (Index i = 0; i < std::min(count, kLanes); ++i) to[i] = v[i];
#endif
}

// The first `count` lanes of v, and beyond them those of `rest`
inline Vector first(const Vector& v, Index count, const Vector& rest = Vector{}) {
#ifdef __AVX512F__
  return (Vector)_mm512_mask_mov_ps((__m512)rest, first_lanes(count), (__m512)v);
#else
  return first_lanes(count) ? v : rest;
#endif
}
inline Vector first(const Vector& v, Whole, const Vector& = Vector{}) { return v; }

// Every second lane of a and b, from lane `start` on
template <int start>
inline Vector every_second(const Vector& a, const Vector& b) {
  Lanes from;
  for (int i = 0; i < kLanes; ++i) from[i] = 2 * i + start;
  return __builtin_shuffle(a, b, from);
}

// a[0], b[0], a[1], b[1], ...: the first half of them, or the second
template <int half>
inline Vector interleave(const Vector& a, const Vector& b) {
  Lanes from;
  for (int i = 0; i < kLanes; ++i) from[i] = (half * kLanes + i) / 2 + (i % 2 ? static_cast<int>(kLanes) : 0);
  return __builtin_shuffle(a, b, from);
}

// v with the lanes exchanged whose numbers differ in the bit `step`
template <int step>
inline Vector exchanged(const Vector& v) {
  Lanes from;
  for (int i = 0; i < kLanes; ++i) from[i] = i ^ step;
  return __builtin_shuffle(v, from);
}

// In pairs of lanes that are far apart, then nearer. Not _mm512_reduce_add_ps, of which GCC 12 warns
template <int step = kLanes / 2>
inline float sum_of_lanes(const Vector& v) {
  const Vector sums = v + exchanged<step>(v);
  if constexpr (step > 1)
    return sum_of_lanes<step / 2>(sums);
  else
    return sums[0];
}

template <int step = kLanes / 2>
inline float largest_of_lanes(const Vector& v) {  // none is NaN
  const Vector other = exchanged<step>(v), most = v > other ? v : other;
  if constexpr (step > 1)
    return largest_of_lanes<step / 2>(most);
  else
    return most[0];
}

// Calls body(i, count) for the places i, i + 1, ... of each vector; count is `Whole` but for the last one.
template <class Body>
inline void for_each_vector(Index size, Body body) {
  Index i = 0;
  for (; i + kLanes <= size; i += kLanes) body(i, Whole());
  if (i < size) body(i, size - i);
}

// The sum of term(i, count), a vector of which only the first `count` lanes are not zero. Four sums run side
// by side, because an addition takes several cycles.
template <class Term>
inline float sum_of(Index size, Term term) {
  Vector a = {}, b = {}, c = {}, d = {};
  Index i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
    a += term(i, Whole());
    b += term(i + kLanes, Whole());
    c += term(i + 2 * kLanes, Whole());
    d += term(i + 3 * kLanes, Whole());
  }
  for (; i + kLanes <= size; i += kLanes) a += term(i, Whole());
  if (i < size) b += term(i, size - i);
  return sum_of_lanes((a + b) + (c + d));
}

inline float sum(const float* x, Index size) {
  return sum_of(size, [x](Index i, auto count) { return load(x + i, count); });
}

// 1 / (1 + exp(-x)), exp with a relative error of about 1e-7. NaN gives NaN, -Inf gives 1e-38.
inline Vector sigmoid(const Vector& x) {
  // exp(-x) = 2^n 2^f with an integer n and |f| <= 1/2. Adding 1.5 2^23 rounds to an integer, which the last
  // bits of the sum hold; they are added to the exponent. A conversion of NaN would be undefined.
  constexpr float kByLog2 = -1.44269504088896f, kRound = 12582912.0f, kMost = 126.0f;
  Vector t = x * kByLog2;
  t = t > kMost ? Vector{} + kMost : t;
  t = t < -kMost ? Vector{} - kMost : t;
  const Vector rounded = t + kRound;
  const Vector f = t - (rounded - kRound);
  Vector p = f * 0.00015353362f + 0.0013398875f;  // 2^f with a relative error of at most 2e-8
  p = p * f + 0.00961843692f;
  p = p * f + 0.0555033237f;
  p = p * f + 0.240226477f;
  p = p * f + 0.693147182f;
  p = p * f + 1.0f;
  return 1.0f / (1.0f + (Vector)((Lanes)p + ((Lanes)rounded << 23)));
}

}  // namespace paddle_attn
