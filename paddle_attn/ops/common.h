// What the operators share: planes in parallel, an exponential that compilers vectorise, and the checks at the door.
//
// A plane is one [H, W] map. Loops run over planes by OpenMP and along a plane by SIMD. Sums are taken in an order that depends on nothing
// but the shapes and the number of threads: the same run gives the same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "paddle/phi/api/all.h"

namespace paddle_attn {

using Index = int64_t;
constexpr Index kStretch = 1024;  // places that a thread takes at once where a loop goes through the channels
using paddle::Tensor;
using In = const Tensor&;

// exp(x) for |x| < 87 to about 1e-7 of its value: x = n ln 2 + r, a polynomial for exp(r), n put into the exponent's bits.
inline float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 87.0f);
  const float n = std::nearbyint(x * 1.44269504088896f);
  const float r = (x - n * 0.693145751953125f) - n * 1.428606765330187e-6f;  // ln 2 in two parts: the first has few bits
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
  expect(x.is_cpu() && x.dtype() == paddle::DataType::FLOAT32 && x.shape().size() == 4, "a float32 tensor [N, C, H, W] on the CPU");
}

// In the place of a second derivative, for every operator: without it Paddle would leave the gradient out and say nothing.
template <typename... Arguments>
std::vector<Tensor> no_second_derivative(Arguments...) {
  PD_THROW("paddle_attn: the compiled operators have no second derivative; PADDLE_ATTN_OPS=off goes by Paddle's own, most of which have one");
}

}  // namespace paddle_attn
