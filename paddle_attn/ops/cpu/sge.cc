// Spatial group-wise enhance, for each group of channels:
//   paddle_attn_sge(x [N, C, H, W], weight [1, G, 1, 1], bias [1, G, 1, 1]) -> y [N, C, H, W]
//   s = sum_c x_c mean(x_c), z = (s - mean(s)) / (deviation(s) + eps), y_c = x_c sigmoid(z w + b)
// Backward saves only x, weight and bias.
#include "common.h"

namespace paddle_attn {
namespace {

constexpr float kEps = 1e-5f;           // added to the deviation, after the square root
constexpr float kMinVariance = 1e-30f;  // at or below it, no gradient passes through the square root

// The statistics and the gate of one group, which forward and backward both need, in memory of the caller.
struct Group {
  Index channels, size;
  float* means;           // [channels]
  float* score;           // [size], centred
  float* gate;            // [size]
  float variance, scale;  // scale = 1 / (deviation + eps)

  static Index floats(Index channels, Index size) { return channels + 2 * size; }
  Group(Index channels, Index size, float* memory)
      : channels(channels), size(size), means(memory), score(means + channels), gate(score + size) {}

  void fill(const float* x, float weight, float bias) {
    float* s = score;
    for (Index c = 0; c < channels; ++c) {
      const float* row = x + c * size;
      const float mean = means[c] = sum(row, size) / static_cast<float>(size);
      if (c == 0) {
        for (Index i = 0; i < size; ++i) s[i] = row[i] * mean;
      } else {
        for (Index i = 0; i < size; ++i) s[i] += row[i] * mean;
      }
    }
    const float mean = sum(s, size) / static_cast<float>(size);
    const float squares = sum_of(size, [=](Index i, auto count) {
      const Vector t = first(load(s + i, count) - mean, count);
      store(t, s + i, count);
      return t * t;
    });
    variance = squares / static_cast<float>(std::max<Index>(size - 1, 1));
    scale = 1.0f / (std::sqrt(std::max(variance, kMinVariance)) + kEps);
    float* a = gate;
    const float slope = scale * weight;
    for_each_vector(
        size, [=](Index i, auto count) { store(sigmoid(load(s + i, count) * slope + bias), a + i, count); });
  }
};

void expect_inputs(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  expect_map(x);
  const Index channels = x.shape()[1], groups = weight.numel();
  expect(groups > 0 && channels % groups == 0, "groups that divide the channels, [C, G]", {channels, groups});
  expect_tensor(weight, {1, groups, 1, 1}, "a weight");
  expect_tensor(bias, {1, groups, 1, 1}, "a bias");
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  expect_inputs(x, weight, bias);
  Tensor y = paddle::empty_like(x);
  const Index batch = x.shape()[0], groups = weight.numel(), channels = x.shape()[1] / groups,
              size = x.shape()[2] * x.shape()[3];
  const float *from = x.data<float>(), *w = weight.data<float>(), *b = bias.data<float>();
  float* to = y.data<float>();
  const Scratch scratch(Group::floats(channels, size));
#pragma omp parallel
  {
    Group group(channels, size, scratch.of_thread());
#pragma omp for
    for (Index k = 0; k < batch * groups; ++k) {
      const float* rows = from + k * channels * size;
      group.fill(rows, w[k % groups], b[k % groups]);
      const float* a = group.gate;
      for (Index c = 0; c < channels; ++c) {
        const float* row = rows + c * size;
        float* out = to + (k * channels + c) * size;
#pragma omp simd
        for (Index i = 0; i < size; ++i) out[i] = row[i] * a[i];
      }
    }
  }
  return {y};
}

// The buffer du holds in turn the gradients of z w + b, of z, of the centred score t and of the score.
void backward_group(const Group& group, const float* x, const float* g, float* dx, float* du, float weight,
                    float* dweight, float* dbias) {
  const Index size = group.size;
  const float *t = group.score, *a = group.gate;
  for (Index c = 0; c < group.channels; ++c) {
    const float *xc = x + c * size, *gc = g + c * size;
    if (c == 0) {
      for (Index i = 0; i < size; ++i) du[i] = gc[i] * xc[i];
    } else {
      for (Index i = 0; i < size; ++i) du[i] += gc[i] * xc[i];
    }
  }
  float by_bias = 0.0f, by_score = 0.0f;
#pragma omp simd reduction(+ : by_bias, by_score)
  for (Index i = 0; i < size; ++i) {
    du[i] *= a[i] * (1.0f - a[i]);
    by_bias += du[i];
    by_score += du[i] * t[i];
  }
  *dbias = by_bias;
  *dweight = by_score * group.scale;
  // dt = du w scale - t scale^2 sum(du w t) / ((M - 1) deviation); subtract its mean, because t is centred
  const float by_deviation =
      group.variance > kMinVariance
          ? group.scale * group.scale * weight * by_score /
                (static_cast<float>(std::max<Index>(size - 1, 1)) * std::sqrt(group.variance))
          : 0.0f;
  const float slope = weight * group.scale;
#pragma omp simd
  for (Index i = 0; i < size; ++i) du[i] = du[i] * slope - t[i] * by_deviation;
  const float mean = sum(du, size) / static_cast<float>(size);
#pragma omp simd
  for (Index i = 0; i < size; ++i) du[i] -= mean;
  for (Index c = 0; c < group.channels; ++c) {
    const float *xc = x + c * size, *gc = g + c * size;
    float* out = dx + c * size;
    const float by_mean =
        sum_of(size, [=](Index i, auto count) { return load(du + i, count) * load(xc + i, count); }) /
        static_cast<float>(size);
    const float channel_mean = group.means[c];
#pragma omp simd
    for (Index i = 0; i < size; ++i) out[i] = gc[i] * a[i] + du[i] * channel_mean + by_mean;
  }
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& grad) {
  expect_inputs(x, weight, bias);
  expect_gradient(grad, x.shape());
  Tensor dx = paddle::empty_like(x), dweight = paddle::empty_like(weight), dbias = paddle::empty_like(bias);
  const Index batch = x.shape()[0], groups = weight.numel(), channels = x.shape()[1] / groups,
              size = x.shape()[2] * x.shape()[3];
  const float *from = x.data<float>(), *g = grad.data<float>(), *w = weight.data<float>(),
              *b = bias.data<float>();
  float* to = dx.data<float>();
  const Scratch by_group(2 * batch * groups, 1), scratch(Group::floats(channels, size) + size);
  float *by_weight = by_group.part(0), *by_bias = by_weight + batch * groups;
#pragma omp parallel
  {
    Group group(channels, size, scratch.of_thread());
    float* du = group.gate + size;
#pragma omp for
    for (Index k = 0; k < batch * groups; ++k) {
      const Index at = k * channels * size;
      group.fill(from + at, w[k % groups], b[k % groups]);
      backward_group(group, from + at, g + at, to + at, du, w[k % groups], &by_weight[k], &by_bias[k]);
    }
  }
  for (Index k = 0; k < groups; ++k) {
    float of_weight = 0.0f, of_bias = 0.0f;
    for (Index n = 0; n < batch; ++n)
      of_weight += by_weight[n * groups + k], of_bias += by_bias[n * groups + k];
    dweight.data<float>()[k] = of_weight;
    dbias.data<float>()[k] = of_bias;
  }
  return {dx, dweight, dbias};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_sge, forward, backward, paddle_attn::shape_of_first_input,
               {"X", "Weight", "Bias"});
