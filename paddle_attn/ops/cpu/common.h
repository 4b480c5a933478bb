// Shared by the CPU operators: sums, an exponential that compilers vectorise, and checks of the input.
//
// A plane is one [H, W] map, a place is one element of a plane. Loops over planes use OpenMP, loops along a
// plane use SIMD. The order of a sum depends only on the shapes and on the number of threads, so equal runs
// give equal bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../register.h"

namespace paddle_attn {

using Index = int64_t;
constexpr Index kStretch = 1024;  // places per thread at a time in loops over the channels

// exp(x) for |x| < 87 with a relative error of about 1e-7: x = n ln 2 + r, a polynomial for exp(r), n added
// to the exponent.
inline float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 87.0f);
  const float n = std::nearbyint(x * 1.44269504088896f);
  const float r =
      (x - n * 0.693145751953125f) - n * 1.428606765330187e-6f;  // ln 2 as a short and a small part
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float sum(const float* x, Index size) {
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (Index i = 0; i < size; ++i) total += x[i];
  return total;
}

inline void expect(bool holds, const char* what) {
  if (!holds) PD_THROW("paddle_attn operator: expected ", what);
}

inline void expect_maps(const Tensor& x) {
  expect(x.is_cpu() && x.dtype() == paddle::DataType::FLOAT32 && x.shape().size() == 4,
         "a float32 tensor [N, C, H, W] on the CPU");
}

}  // namespace paddle_attn
