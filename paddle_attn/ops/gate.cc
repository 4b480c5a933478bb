// What gates have in common: x times a gate of one value for each channel or for each place, the mean of every plane, and the
// maximum and mean over the channels.
#include "common.h"

namespace paddle_attn {
namespace {

using Shape = std::vector<Index>;
using Type = paddle::DataType;

// x [N, C, H, W] * gate, which is [N, C, 1, 1] or [N, 1, H, W]
std::vector<Tensor> forward(const Tensor& x, const Tensor& gate) {
  expect_maps(x);
  const Shape shape = x.shape();
  const bool by_channel = gate.shape()[1] == shape[1];
  Tensor y = paddle::empty_like(x);
  const Index channels = shape[1], planes = shape[0] * channels, size = shape[2] * shape[3];
  const float *from = x.data<float>(), *a = gate.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float* row = from + p * size;
    float* out = to + p * size;
    if (by_channel) {
      const float factor = a[p];
#pragma omp simd
      for (Index i = 0; i < size; ++i) out[i] = row[i] * factor;
    } else {
      const float* factors = a + p / channels * size;
#pragma omp simd
      for (Index i = 0; i < size; ++i) out[i] = row[i] * factors[i];
    }
  }
  return {y};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& gate, const Tensor& grad) {
  const Shape shape = x.shape();
  const bool by_channel = gate.shape()[1] == shape[1];
  Tensor dx = paddle::empty_like(x), dgate = paddle::empty_like(gate);
  const Index batch = shape[0], channels = shape[1], size = shape[2] * shape[3];
  const float *from = x.data<float>(), *a = gate.data<float>(), *g = grad.data<float>();
  float *to = dx.data<float>(), *da = dgate.data<float>();
  if (by_channel) {
#pragma omp parallel for
    for (Index p = 0; p < batch * channels; ++p) {
      const float *row = from + p * size, *gradient = g + p * size, factor = a[p];
      float *out = to + p * size, total = 0.0f;
#pragma omp simd reduction(+ : total)
      for (Index i = 0; i < size; ++i) {
        total += gradient[i] * row[i];
        out[i] = gradient[i] * factor;
      }
      da[p] = total;
    }
    return {dx, dgate};
  }
  // by place: a thread takes a stretch of places of one image through all channels
  const Index stretches = (size + kStretch - 1) / kStretch;
#pragma omp parallel for
  for (Index k = 0; k < batch * stretches; ++k) {
    const Index n = k / stretches, first = k % stretches * kStretch, count = std::min(kStretch, size - first);
    const float* factors = a + n * size + first;
    float* totals = da + n * size + first;
    std::fill(totals, totals + count, 0.0f);
    for (Index c = 0; c < channels; ++c) {
      const Index at = (n * channels + c) * size + first;
      const float *row = from + at, *gradient = g + at;
      float* out = to + at;
#pragma omp simd
      for (Index i = 0; i < count; ++i) {
        totals[i] += gradient[i] * row[i];
        out[i] = gradient[i] * factors[i];
      }
    }
  }
  return {dx, dgate};
}

// [N, C, H, W] -> [N, C, 1, 1]
std::vector<Tensor> mean(const Tensor& x) {
  expect_maps(x);
  const Shape shape = x.shape();
  Tensor y = paddle::empty({shape[0], shape[1], 1, 1}, x.dtype(), x.place());
  const Index planes = shape[0] * shape[1], size = shape[2] * shape[3];
  const float* from = x.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) to[p] = sum(from + p * size, size) / static_cast<float>(size);
  return {y};
}

std::vector<Tensor> mean_backward(const Tensor& x, const Tensor& grad) {
  Tensor dx = paddle::empty_like(x);
  const Index planes = x.shape()[0] * x.shape()[1], size = x.shape()[2] * x.shape()[3];
  const float* g = grad.data<float>();
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) std::fill(to + p * size, to + (p + 1) * size, g[p] / static_cast<float>(size));
  return {dx};
}

// [N, C, H, W] -> [N, 2, H, W]: the maximum over the channels, then their mean
std::vector<Tensor> pool(const Tensor& x) {
  expect_maps(x);
  const Shape shape = x.shape();
  Tensor y = paddle::empty({shape[0], 2, shape[2], shape[3]}, x.dtype(), x.place());
  const Index channels = shape[1], size = shape[2] * shape[3], stretches = (size + kStretch - 1) / kStretch;
  const float* from = x.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index k = 0; k < shape[0] * stretches; ++k) {
    const Index n = k / stretches, first = k % stretches * kStretch, count = std::min(kStretch, size - first);
    float *most = to + 2 * n * size + first, *mean = most + size;
    const float* rows = from + n * channels * size + first;
    std::copy(rows, rows + count, most);
    std::copy(rows, rows + count, mean);
    for (Index c = 1; c < channels; ++c) {
      const float* row = rows + c * size;
#pragma omp simd
      for (Index i = 0; i < count; ++i) {
        most[i] = std::max(most[i], row[i]);
        mean[i] += row[i];
      }
    }
    for (Index i = 0; i < count; ++i) mean[i] /= static_cast<float>(channels);
  }
  return {y};
}

// The first channel that has the maximum gets its gradient.
std::vector<Tensor> pool_backward(const Tensor& x, const Tensor& y, const Tensor& grad) {
  const Shape shape = x.shape();
  Tensor dx = paddle::empty_like(x);
  const Index channels = shape[1], size = shape[2] * shape[3], stretches = (size + kStretch - 1) / kStretch;
  const float *from = x.data<float>(), *pooled = y.data<float>(), *g = grad.data<float>();
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index k = 0; k < shape[0] * stretches; ++k) {
    const Index n = k / stretches, first = k % stretches * kStretch, count = std::min(kStretch, size - first);
    const float *most = pooled + 2 * n * size + first, *by_mean = g + (2 * n + 1) * size + first;
    float left[kStretch];  // of the maximum's gradient: all or, once it is given, nothing
    std::copy(g + 2 * n * size + first, g + 2 * n * size + first + count, left);
    for (Index c = 0; c < channels; ++c) {
      const Index at = (n * channels + c) * size + first;
      const float* row = from + at;
      float* out = to + at;
#pragma omp simd
      for (Index i = 0; i < count; ++i) {
        const bool here = row[i] == most[i];
        out[i] = by_mean[i] / static_cast<float>(channels) + (here ? left[i] : 0.0f);
        left[i] = here ? 0.0f : left[i];
      }
    }
  }
  return {dx};
}

std::vector<Shape> shape_of_x(const Shape& x, const Shape& gate) { return {x}; }
std::vector<Type> type_of_x(const Type& x, const Type& gate) { return {x}; }
std::vector<Shape> shape_of_mean(const Shape& x) { return {{x[0], x[1], 1, 1}}; }
std::vector<Shape> shape_of_pool(const Shape& x) { return {{x[0], 2, x[2], x[3]}}; }
std::vector<Type> type_of_pool(const Type& x) { return {x}; }

}  // namespace
}  // namespace paddle_attn

PD_BUILD_OP(paddle_attn_scale)
    .Inputs({"X", "Gate"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(paddle_attn::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_attn::shape_of_x))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_attn::type_of_x));

PD_BUILD_GRAD_OP(paddle_attn_scale)
    .Inputs({"X", "Gate", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Gate")})
    .SetKernelFn(PD_KERNEL(paddle_attn::backward));

PD_BUILD_DOUBLE_GRAD_OP(paddle_attn_scale)
    .Inputs({"X", "Gate", paddle::Grad("Y"), paddle::Grad(paddle::Grad("X")), paddle::Grad(paddle::Grad("Gate"))})
    .Outputs({paddle::Grad(paddle::Grad("Y"))})
    .SetKernelFn(PD_KERNEL((paddle_attn::no_second_derivative<paddle_attn::In, paddle_attn::In, paddle_attn::In, paddle_attn::In, paddle_attn::In>)));

PD_BUILD_OP(paddle_attn_mean)
    .Inputs({"X"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(paddle_attn::mean))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_attn::shape_of_mean))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_attn::type_of_pool));

PD_BUILD_GRAD_OP(paddle_attn_mean)
    .Inputs({"X", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(paddle_attn::mean_backward));

PD_BUILD_DOUBLE_GRAD_OP(paddle_attn_mean)
    .Inputs({"X", paddle::Grad("Y"), paddle::Grad(paddle::Grad("X"))})
    .Outputs({paddle::Grad(paddle::Grad("Y"))})
    .SetKernelFn(PD_KERNEL((paddle_attn::no_second_derivative<paddle_attn::In, paddle_attn::In, paddle_attn::In>)));

PD_BUILD_OP(paddle_attn_channel_pool)
    .Inputs({"X"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(paddle_attn::pool))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_attn::shape_of_pool))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_attn::type_of_pool));

PD_BUILD_GRAD_OP(paddle_attn_channel_pool)
    .Inputs({"X", "Y", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(paddle_attn::pool_backward));

PD_BUILD_DOUBLE_GRAD_OP(paddle_attn_channel_pool)
    .Inputs({"X", "Y", paddle::Grad("Y"), paddle::Grad(paddle::Grad("X"))})
    .Outputs({paddle::Grad(paddle::Grad("Y"))})
    .SetKernelFn(PD_KERNEL((paddle_attn::no_second_derivative<paddle_attn::In, paddle_attn::In, paddle_attn::In, paddle_attn::In>)));
