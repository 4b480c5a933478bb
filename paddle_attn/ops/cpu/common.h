// Shared by the CPU operators: checks of tensors, memory for threads; vectors.h has sums and the sigmoid.
//
// A plane is one [H, W] map, a place is one element of a plane. Loops over planes use OpenMP, loops along a
// plane use SIMD. The order of a sum depends only on the shapes and on the number of threads, so equal runs
// give equal bits.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "../register.h"
#include "vectors.h"

namespace paddle_attn {

constexpr Index kStretch = 2048;  // places per thread at a time in loops over the channels

// The maximum of a and b in the order of Paddle's max-pool: b where one of them is NaN
inline float larger(float a, float b) { return a > b ? a : b; }
constexpr float kLowest = std::numeric_limits<float>::lowest();  // where Paddle's max-pool starts

inline std::string text(const Shape& shape) {
  std::string sizes;
  for (Index size : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  return "[" + sizes + "]";
}

inline void expect(bool holds, const char* what, const Shape& found) {
  if (!holds) PD_THROW("paddle_attn: expected ", what, ", found ", text(found));
}

inline void expect_float32(const Tensor& t) {
  if (!t.is_cpu() || t.dtype() != paddle::DataType::FLOAT32)
    PD_THROW("paddle_attn: expected float32 tensors on the CPU, found ", t.dtype(), " on ", t.place());
}

inline void expect_map(const Tensor& x) {
  expect_float32(x);
  expect(x.shape().size() == 4 && x.numel() > 0, "a map [N, C, H, W] that is not empty", x.shape());
}

inline void expect_tensor(const Tensor& t, const Shape& shape, const char* name) {
  expect_float32(t);
  if (t.shape() != shape)
    PD_THROW("paddle_attn: expected ", name, " of the shape ", text(shape), ", found ", text(t.shape()));
}

inline void expect_gradient(const Tensor& grad, const Shape& y) { expect_tensor(grad, y, "a gradient"); }

// Floats for each thread of a parallel region, not initialised. They are allocated before the region, because
// an exception inside it would end the process.
class Scratch {
 public:
  explicit Scratch(Index size, Index parts = omp_get_max_threads())
      : step_((size + 63) / 16 * 16),  // whole cache lines, and a gap of three between the threads' parts
        floats_(static_cast<float*>(std::aligned_alloc(64, 4 * parts * step_)), std::free) {
    if (!floats_) PD_THROW("paddle_attn: out of memory, cannot allocate ", 4 * parts * step_, " bytes");
  }
  float* part(Index index) const { return floats_.get() + index * step_; }
  float* of_thread() const { return part(omp_get_thread_num()); }

 private:
  Index step_;
  std::unique_ptr<float[], decltype(&std::free)> floats_;
};

}  // namespace paddle_attn
