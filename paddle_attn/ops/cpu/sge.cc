// Spatial group-wise enhance, for each group of channels:
//   paddle_attn_sge(x [N, C, H, W], weight [1, G, 1, 1], bias [1, G, 1, 1]) -> y [N, C, H, W]
//   s = sum_c x_c mean(x_c), z = (s - mean(s)) / (deviation(s) + eps), y_c = x_c sigmoid(z w + b)
// Backward saves only x, weight and bias.
#include "common.h"

namespace paddle_attn {
namespace {

constexpr float kEps = 1e-5f;           // added to the deviation, after the square root
constexpr float kMinVariance = 1e-30f;  // at or below it, no gradient passes through the square root

// The statistics and the gate of one group, which forward and backward both need.
struct Group {
  Index channels, size;
  std::vector<float> means;  // [channels]
  std::vector<float> score;  // [size], centred
  std::vector<float> gate;   // [size]
  float variance, scale;     // scale = 1 / (deviation + eps)

  Group(Index channels, Index size)
      : channels(channels), size(size), means(channels), score(size), gate(size) {}

  void fill(const float* x, float weight, float bias) {
    std::fill(score.begin(), score.end(), 0.0f);
    float* s = score.data();
    for (Index c = 0; c < channels; ++c) {
      const float* row = x + c * size;
      const float mean = means[c] = sum(row, size) / static_cast<float>(size);
#pragma omp simd
      for (Index i = 0; i < size; ++i) s[i] += row[i] * mean;
    }
    const float mean = sum(s, size) / static_cast<float>(size);
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (Index i = 0; i < size; ++i) {
      s[i] -= mean;
      squares += s[i] * s[i];
    }
    variance = squares / static_cast<float>(std::max<Index>(size - 1, 1));
    scale = 1.0f / (std::sqrt(std::max(variance, kMinVariance)) + kEps);
    float* a = gate.data();
    const float slope = scale * weight;
#pragma omp simd
    for (Index i = 0; i < size; ++i) a[i] = sigmoid(s[i] * slope + bias);
  }
};

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  expect_maps(x);
  Tensor y = paddle::empty_like(x);
  const Index batch = x.shape()[0], groups = weight.numel(), channels = x.shape()[1] / groups,
              size = x.shape()[2] * x.shape()[3];
  const float *from = x.data<float>(), *w = weight.data<float>(), *b = bias.data<float>();
  float* to = y.data<float>();
#pragma omp parallel
  {
    Group group(channels, size);
#pragma omp for
    for (Index k = 0; k < batch * groups; ++k) {
      const float* rows = from + k * channels * size;
      group.fill(rows, w[k % groups], b[k % groups]);
      const float* a = group.gate.data();
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
  const float *t = group.score.data(), *a = group.gate.data();
  std::fill(du, du + size, 0.0f);
  for (Index c = 0; c < group.channels; ++c) {
    const float *xc = x + c * size, *gc = g + c * size;
#pragma omp simd
    for (Index i = 0; i < size; ++i) du[i] += gc[i] * xc[i];
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
    float by_mean = 0.0f;
#pragma omp simd reduction(+ : by_mean)
    for (Index i = 0; i < size; ++i) by_mean += du[i] * xc[i];
    by_mean /= static_cast<float>(size);
    const float channel_mean = group.means[c];
#pragma omp simd
    for (Index i = 0; i < size; ++i) out[i] = gc[i] * a[i] + du[i] * channel_mean + by_mean;
  }
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& grad) {
  Tensor dx = paddle::empty_like(x), dweight = paddle::empty_like(weight), dbias = paddle::empty_like(bias);
  const Index batch = x.shape()[0], groups = weight.numel(), channels = x.shape()[1] / groups,
              size = x.shape()[2] * x.shape()[3];
  const float *from = x.data<float>(), *g = grad.data<float>(), *w = weight.data<float>(),
              *b = bias.data<float>();
  float* to = dx.data<float>();
  std::vector<float> by_weight(batch * groups), by_bias(batch * groups);
#pragma omp parallel
  {
    Group group(channels, size);
    std::vector<float> du(size);
#pragma omp for
    for (Index k = 0; k < batch * groups; ++k) {
      const Index at = k * channels * size;
      group.fill(from + at, w[k % groups], b[k % groups]);
      backward_group(group, from + at, g + at, to + at, du.data(), w[k % groups], &by_weight[k], &by_bias[k]);
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
