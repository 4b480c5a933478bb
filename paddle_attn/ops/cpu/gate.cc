// Operations that gates share:
//   paddle_attn_scale(x [N, C, H, W], gate [N, C, 1, 1] or [N, 1, H, W]) -> x gate [N, C, H, W]
//   paddle_attn_mean(x [N, C, H, W]) -> the mean of each plane [N, C, 1, 1]
//   paddle_attn_channel_pool(x [N, C, H, W]) -> the maximum over the channels, then their mean [N, 2, H, W]
#include "common.h"

namespace paddle_attn {
namespace {

// Whether the gate is [N, C, 1, 1]; otherwise it is [N, 1, H, W].
bool is_by_channel(const Tensor& x, const Tensor& gate) {
  expect_map(x);
  expect_float32(gate);
  const Shape shape = x.shape(), found = gate.shape();
  const bool by_channel = found == Shape({shape[0], shape[1], 1, 1});
  expect(by_channel || found == Shape({shape[0], 1, shape[2], shape[3]}),
         "a gate [N, C, 1, 1] or [N, 1, H, W] for its map", found);
  return by_channel;
}

std::vector<Tensor> scale(const Tensor& x, const Tensor& gate) {
  const bool by_channel = is_by_channel(x, gate);
  const Shape shape = x.shape();
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
      for_each_vector(size,
                      [=](Index i, auto count) { store(load(row + i, count) * factor, out + i, count); });
    } else {
      const float* factors = a + p / channels * size;
      for_each_vector(size, [=](Index i, auto count) {
        store(load(row + i, count) * load(factors + i, count), out + i, count);
      });
    }
  }
  return {y};
}

std::vector<Tensor> scale_backward(const Tensor& x, const Tensor& gate, const Tensor& grad) {
  const bool by_channel = is_by_channel(x, gate);
  const Shape shape = x.shape();
  expect_gradient(grad, shape);
  Tensor dx = paddle::empty_like(x), dgate = paddle::empty_like(gate);
  const Index batch = shape[0], channels = shape[1], size = shape[2] * shape[3];
  const float *from = x.data<float>(), *a = gate.data<float>(), *g = grad.data<float>();
  float *to = dx.data<float>(), *da = dgate.data<float>();
  if (by_channel) {
#pragma omp parallel for
    for (Index p = 0; p < batch * channels; ++p) {
      const float *row = from + p * size, *gradient = g + p * size, factor = a[p];
      float* out = to + p * size;
      da[p] = sum_of(size, [=](Index i, auto count) {
        const Vector v = load(gradient + i, count);
        store(v * factor, out + i, count);
        return v * load(row + i, count);
      });
    }
    return {dx, dgate};
  }
  // one factor per place: a thread takes a stretch of places of one image through all channels
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
      for_each_vector(count, [=](Index i, auto lanes) {
        const Vector v = load(gradient + i, lanes);
        store(load(totals + i, lanes) + v * load(row + i, lanes), totals + i, lanes);
        store(v * load(factors + i, lanes), out + i, lanes);
      });
    }
  }
  return {dx, dgate};
}

std::vector<Tensor> mean(const Tensor& x) {
  expect_map(x);
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
  expect_map(x);
  expect_gradient(grad, {x.shape()[0], x.shape()[1], 1, 1});
  Tensor dx = paddle::empty_like(x);
  const Index planes = x.shape()[0] * x.shape()[1], size = x.shape()[2] * x.shape()[3];
  const float* g = grad.data<float>();
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p)
    std::fill(to + p * size, to + (p + 1) * size, g[p] / static_cast<float>(size));
  return {dx};
}

std::vector<Tensor> channel_pool(const Tensor& x) {
  expect_map(x);
  const Shape shape = x.shape();
  Tensor y = paddle::empty({shape[0], 2, shape[2], shape[3]}, x.dtype(), x.place());
  const Index channels = shape[1], size = shape[2] * shape[3], stretches = (size + kStretch - 1) / kStretch;
  const float* from = x.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index k = 0; k < shape[0] * stretches; ++k) {
    const Index n = k / stretches, first = k % stretches * kStretch, count = std::min(kStretch, size - first);
    float *maximum = to + 2 * n * size + first, *mean = maximum + size;
    const float* rows = from + n * channels * size + first;
    for (Index i = 0; i < count; ++i) maximum[i] = larger(kLowest, rows[i]);
    std::copy(rows, rows + count, mean);
    for (Index c = 1; c < channels; ++c) {
      const float* row = rows + c * size;
#pragma omp simd
      for (Index i = 0; i < count; ++i) {
        maximum[i] = larger(maximum[i], row[i]);
        mean[i] += row[i];
      }
    }
    for (Index i = 0; i < count; ++i) mean[i] /= static_cast<float>(channels);
  }
  return {y};
}

// The first channel that holds the maximum receives its gradient; none does if the maximum is NaN.
std::vector<Tensor> channel_pool_backward(const Tensor& x, const Tensor& y, const Tensor& grad) {
  expect_map(x);
  const Shape shape = x.shape();
  expect_tensor(y, {shape[0], 2, shape[2], shape[3]}, "an output");
  expect_gradient(grad, y.shape());
  Tensor dx = paddle::empty_like(x);
  const Index channels = shape[1], size = shape[2] * shape[3], stretches = (size + kStretch - 1) / kStretch;
  const float *from = x.data<float>(), *pooled = y.data<float>(), *g = grad.data<float>();
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index k = 0; k < shape[0] * stretches; ++k) {
    const Index n = k / stretches, first = k % stretches * kStretch, count = std::min(kStretch, size - first);
    const float *maximum = pooled + 2 * n * size + first, *by_mean = g + (2 * n + 1) * size + first;
    float left[kStretch];  // the maximum's gradient, 0 once a channel has received it
    std::copy(g + 2 * n * size + first, g + 2 * n * size + first + count, left);
    for (Index c = 0; c < channels; ++c) {
      const Index at = (n * channels + c) * size + first;
      const float* row = from + at;
      float* out = to + at;
#pragma omp simd
      for (Index i = 0; i < count; ++i) {
        const bool here = row[i] == maximum[i];
        out[i] = by_mean[i] / static_cast<float>(channels) + (here ? left[i] : 0.0f);
        left[i] = here ? 0.0f : left[i];
      }
    }
  }
  return {dx};
}

std::vector<Shape> shape_of_mean(const Shape& x) {
  expect(x.size() == 4, "a map [N, C, H, W]", x);
  return {{x[0], x[1], 1, 1}};
}

std::vector<Shape> shape_of_channel_pool(const Shape& x) {
  expect(x.size() == 4, "a map [N, C, H, W]", x);
  return {{x[0], 2, x[2], x[3]}};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_scale, scale, scale_backward, paddle_attn::shape_of_first_input, {"X", "Gate"});
FUSED_OPERATOR(paddle_attn_mean, mean, mean_backward, PD_INFER_SHAPE(paddle_attn::shape_of_mean), {"X"});
FUSED_OPERATOR(paddle_attn_channel_pool, channel_pool, channel_pool_backward,
               PD_INFER_SHAPE(paddle_attn::shape_of_channel_pool), {"X"}, {}, {"Y"});
