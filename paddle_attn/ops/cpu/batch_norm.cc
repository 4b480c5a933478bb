// Batch norm, the addition of a residual, and an activation, in one pass over memory each way:
//   paddle_attn_batch_norm(x [N, C, H, W], scale [C], bias [C], running mean [C], running variance [C],
//                          activation, frozen, momentum, epsilon) -> y [N, C, H, W]
//   paddle_attn_batch_norm_add(x, residual [N, C, H, W], scale, ...): the same
//   y = activation((x - mean) scale / sqrt(variance + epsilon) + bias + residual)
//   activation: 0 none, 1 ReLU, 2 ReLU6
// The statistics are those of a channel over N, H and W, and the running ones become
// momentum running + (1 - momentum) batch, with the variance divided by N H W, as on Paddle's CPU. Frozen:
// the statistics are the running ones, which stay.
//
// A thread takes a channel, or planes when there are few channels, and reads it twice: the second time it
// comes from the cache. Backward finds the slope of the activation from x, or from y after an addition, so
// only x, y and three numbers per channel are kept.
#include "common.h"

namespace paddle_attn {
namespace {

enum Activation : int { kNone, kRelu, kRelu6 };

// Of NaN Paddle's ReLU makes 0, and its ReLU6 NaN.
template <int activation>
inline float activate(float z) {
  if (activation == kRelu) return z > 0.0f ? z : 0.0f;
  if (activation == kRelu6) return z < 0.0f ? 0.0f : z > 6.0f ? 6.0f : z;
  return z;
}

// The slope of the activation at z, or where it gave z.
template <int activation>
inline float slope(float z) {
  if (activation == kRelu) return z > 0.0f ? 1.0f : 0.0f;
  if (activation == kRelu6) return (z > 0.0f) & (z < 6.0f) ? 1.0f : 0.0f;
  return 1.0f;
}

// Calls f with the activation as a constant.
template <class F>
void with_constant(int activation, F f) {
  if (activation == kNone) f(std::integral_constant<int, kNone>());
  if (activation == kRelu) f(std::integral_constant<int, kRelu>());
  if (activation == kRelu6) f(std::integral_constant<int, kRelu6>());
}

// One channel, saved for backward. The mean is mean + rest: a float alone is too short for (x - mean) when
// the mean is large.
struct Statistics {
  float mean, rest, by_deviation;  // 1 / sqrt(variance + epsilon)

  Statistics(double exact_mean, double variance, double epsilon)
      : mean(static_cast<float>(exact_mean)),
        rest(static_cast<float>(exact_mean - mean)),
        by_deviation(static_cast<float>(1.0 / std::sqrt(variance + epsilon))) {}

  Statistics(const float* saved, Index channels)
      : mean(saved[0]), rest(saved[channels]), by_deviation(saved[2 * channels]) {}

  void save(float* saved, Index channels) const {
    saved[0] = mean, saved[channels] = rest, saved[2 * channels] = by_deviation;
  }
};

// Before residual and activation: z = (x - mean) factor + shift
struct Affine {
  float mean, factor, shift;

  Affine(const Statistics& s, float scale, float bias)
      : mean(s.mean), factor(s.by_deviation * scale), shift(bias - s.rest * factor) {}
  float operator()(float x) const { return (x - mean) * factor + shift; }
};

struct Sums {
  double first = 0.0, second = 0.0;

  void operator+=(const Sums& other) { first += other.first, second += other.second; }
};

constexpr Index kFloats = 1024;  // terms that are summed as floats

// Sums of two terms over a plane: floats within a stretch, doubles beyond. terms(i) gives both.
template <class Terms>
inline Sums sum_terms(Index size, Terms terms) {
  Sums sums;
  for (Index start = 0; start < size; start += kFloats) {
    const Index end = std::min(start + kFloats, size);
    float first = 0.0f, second = 0.0f;
#pragma omp simd reduction(+ : first, second)
    for (Index i = start; i < end; ++i) {
      const auto [a, b] = terms(i);
      first += a;
      second += b;
    }
    sums += {first, second};
  }
  return sums;
}

struct Pair {
  float first, second;
};

constexpr Index kRun = 16384;  // floats of adjoining planes of one image that a thread reads in a row

// For each channel: the sums of its planes, then finish(channel, sums), then apply(channel, plane).
template <class PlaneSums, class Finish, class Apply>
void for_each_channel(Index batch, Index channels, Index size, PlaneSums plane_sums, Finish finish,
                      Apply apply) {
  const Index threads = omp_get_max_threads();
  if (channels < threads) {
    std::vector<Sums> of_planes(batch * channels);
#pragma omp parallel
    {
#pragma omp for
      for (Index p = 0; p < batch * channels; ++p) of_planes[p] = plane_sums(p % channels, p);
#pragma omp for
      for (Index c = 0; c < channels; ++c) {
        Sums sums;
        for (Index n = 0; n < batch; ++n) sums += of_planes[n * channels + c];
        finish(c, sums);
      }
#pragma omp for
      for (Index p = 0; p < batch * channels; ++p) apply(p % channels, p);
    }
    return;
  }
  std::vector<Sums> sums(channels);
  const Index group = std::clamp<Index>(kRun / size, 1, (channels + threads - 1) / threads);
#pragma omp parallel for
  for (Index first = 0; first < channels; first += group) {
    const Index last = std::min(first + group, channels);
    for (Index n = 0; n < batch; ++n) {
      for (Index c = first; c < last; ++c) sums[c] += plane_sums(c, n * channels + c);
    }
    for (Index c = first; c < last; ++c) finish(c, sums[c]);
    for (Index n = batch - 1; n >= 0; --n) {  // the last image is still in the cache
      for (Index c = first; c < last; ++c) apply(c, n * channels + c);
    }
  }
}

void expect_inputs(const Tensor& x, const Tensor* residual, const Tensor& scale, const Tensor& bias,
                   int activation, bool frozen) {
  expect_map(x);
  const Shape shape = x.shape();
  if (residual) expect_tensor(*residual, shape, "a residual");
  expect_tensor(scale, {shape[1]}, "a scale");
  expect_tensor(bias, {shape[1]}, "a bias");
  expect(activation >= kNone && activation <= kRelu6, "an activation of 0, 1 or 2", {activation});
  expect(frozen || x.numel() > shape[1], "more than one value for each channel", shape);
}

template <int activation>
void apply_affine(const Affine& z, const float* x, const float* residual, float* y, Index size) {
  if (residual) {
#pragma omp simd
    for (Index i = 0; i < size; ++i) y[i] = activate<activation>(z(x[i]) + residual[i]);
  } else {
#pragma omp simd
    for (Index i = 0; i < size; ++i) y[i] = activate<activation>(z(x[i]));
  }
}

std::vector<Tensor> forward_any(const Tensor& x, const Tensor* residual, const Tensor& scale,
                                const Tensor& bias, Tensor running_mean, Tensor running_variance,
                                int activation, bool frozen, float momentum, float epsilon) {
  expect_inputs(x, residual, scale, bias, activation, frozen);
  const Shape shape = x.shape();
  expect_tensor(running_mean, {shape[1]}, "a running mean");
  expect_tensor(running_variance, {shape[1]}, "a running variance");
  const Index batch = shape[0], channels = shape[1], size = shape[2] * shape[3];
  Tensor y = paddle::empty_like(x), saved = paddle::empty({3, channels}, x.dtype(), x.place());
  const float *from = x.data<float>(), *added = residual ? residual->data<float>() : nullptr;
  const float *factors = scale.data<float>(), *biases = bias.data<float>();
  float *to = y.data<float>(), *statistics = saved.data<float>();
  float *means = running_mean.data<float>(), *variances = running_variance.data<float>();

  const auto apply = [&](Index c, Index p) {
    const Affine z(Statistics(statistics + c, channels), factors[c], biases[c]);
    const float* residuals = added ? added + p * size : nullptr;
    with_constant(activation, [&](auto constant) {
      apply_affine<constant()>(z, from + p * size, residuals, to + p * size, size);
    });
  };
  if (frozen) {
    for (Index c = 0; c < channels; ++c)
      Statistics(means[c], variances[c], epsilon).save(statistics + c, channels);
#pragma omp parallel for
    for (Index p = 0; p < batch * channels; ++p) apply(p % channels, p);
    return {y, saved};
  }
  // Distances from the mean of the first plane: their squares exceed the variance by a factor of N + 1 at
  // most, so the difference below loses little, whatever the mean.
  const Scratch origins(channels, 1);
  float* origin = origins.part(0);
#pragma omp parallel for
  for (Index c = 0; c < channels; ++c) {
    const float mean = sum(from + c * size, size) / static_cast<float>(size);
    origin[c] = std::isfinite(mean) ? mean : 0.0f;
  }
  const double count = static_cast<double>(batch * size);
  for_each_channel(
      batch, channels, size,
      [&](Index c, Index p) {
        const float *plane = from + p * size, start = origin[c];
        return sum_terms(size, [=](Index i) {
          const float d = plane[i] - start;
          return Pair{d, d * d};
        });
      },
      [&](Index c, const Sums& sums) {
        const double distance = sums.first / count, mean = origin[c] + distance;
        const double variance = std::max(sums.second / count - distance * distance, 0.0);
        Statistics(mean, variance, epsilon).save(statistics + c, channels);
        means[c] = static_cast<float>(momentum * means[c] + (1.0 - momentum) * mean);
        variances[c] = static_cast<float>(momentum * variances[c] + (1.0 - momentum) * variance);
      },
      apply);
  return {y, saved};
}

// With the gradient g before residual and activation, d = x - mean, and the factor a:
//   dbias = sum(g), dscale = sum(g d) / sqrt(variance + epsilon), dresidual = g
//   dx = a (g - sum(g) / M - d sum(g d) / (M (variance + epsilon))), M = N H W; frozen: dx = a g
template <int activation>
Sums plane_gradients(const Affine& z, const float* x, const float* y, const float* grad, float* g,
                     Index size) {
  if (!g) {
    return sum_terms(size, [=](Index i) {
      const float gradient = grad[i] * slope<activation>(z(x[i]));
      return Pair{gradient, gradient * (x[i] - z.mean)};
    });
  }
  return sum_terms(size, [=](Index i) {
    const float gradient = activation == kNone ? grad[i] : grad[i] * slope<activation>(y[i]);
    g[i] = gradient;
    return Pair{gradient, gradient * (x[i] - z.mean)};
  });
}

template <int activation>
void apply_gradients(const Affine& z, float by_sum, float by_distance, const float* x, const float* grad,
                     float* dx, Index size) {
#pragma omp simd
  for (Index i = 0; i < size; ++i) {
    const float g = grad[i] * slope<activation>(z(x[i]));
    dx[i] = z.factor * g - (by_sum + by_distance * (x[i] - z.mean));
  }
}

template <int activation>
void apply_frozen_gradients(const Affine& z, const float* x, const float* grad, float* dx, Index size) {
#pragma omp simd
  for (Index i = 0; i < size; ++i) dx[i] = z.factor * (grad[i] * slope<activation>(z(x[i])));
}

// {dx, dscale, dbias}; fills dresidual if there is one
std::vector<Tensor> backward_any(const Tensor& x, float* dresidual, const Tensor& scale, const Tensor& bias,
                                 const Tensor* y, const Tensor& saved, const Tensor& grad, int activation,
                                 bool frozen) {
  const Shape shape = x.shape();
  expect_tensor(saved, {3, shape[1]}, "statistics");
  expect_gradient(grad, shape);
  const Index batch = shape[0], channels = shape[1], size = shape[2] * shape[3];
  Tensor dx = paddle::empty_like(x), dscale = paddle::empty_like(scale), dbias = paddle::empty_like(bias);
  const Scratch corrections(2 * channels, 1);
  float *by_sum = corrections.part(0), *by_distance = by_sum + channels;
  const float *from = x.data<float>(), *g = grad.data<float>(), *out = y ? y->data<float>() : nullptr;
  const float *factors = scale.data<float>(), *biases = bias.data<float>(), *statistics = saved.data<float>();
  float *to = dx.data<float>(), *dfactors = dscale.data<float>(), *dbiases = dbias.data<float>();
  const double count = static_cast<double>(batch * size);

  for_each_channel(
      batch, channels, size,
      [&](Index c, Index p) {
        const Affine z(Statistics(statistics + c, channels), factors[c], biases[c]);
        const float* plane_y = out ? out + p * size : nullptr;
        float* plane_g = dresidual ? dresidual + p * size : nullptr;
        Sums sums;
        with_constant(activation, [&](auto constant) {
          sums = plane_gradients<constant()>(z, from + p * size, plane_y, g + p * size, plane_g, size);
        });
        return sums;
      },
      [&](Index c, const Sums& sums) {
        const Statistics s(statistics + c, channels);
        const double by_deviation = s.by_deviation, factor = by_deviation * factors[c];
        const double by_variance = (sums.second - s.rest * sums.first) * by_deviation;
        dfactors[c] = static_cast<float>(by_variance);
        dbiases[c] = static_cast<float>(sums.first);
        by_distance[c] = static_cast<float>(factor * by_variance * by_deviation / count);
        by_sum[c] = static_cast<float>(factor * sums.first / count - by_distance[c] * s.rest);
      },
      [&](Index c, Index p) {
        const Affine z(Statistics(statistics + c, channels), factors[c], biases[c]);
        const float* gradient = dresidual ? dresidual + p * size : g + p * size;
        with_constant(dresidual ? kNone : activation, [&](auto constant) {
          if (frozen)
            apply_frozen_gradients<constant()>(z, from + p * size, gradient, to + p * size, size);
          else
            apply_gradients<constant()>(z, by_sum[c], by_distance[c], from + p * size, gradient,
                                        to + p * size, size);
        });
      });
  return {dx, dscale, dbias};
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& scale, const Tensor& bias, const Tensor& mean,
                            const Tensor& variance, int activation, bool frozen, float momentum,
                            float epsilon) {
  return forward_any(x, nullptr, scale, bias, mean, variance, activation, frozen, momentum, epsilon);
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& scale, const Tensor& bias, const Tensor& saved,
                             const Tensor& grad, int activation, bool frozen, float, float) {
  expect_inputs(x, nullptr, scale, bias, activation, frozen);
  return backward_any(x, nullptr, scale, bias, nullptr, saved, grad, activation, frozen);
}

std::vector<Tensor> forward_add(const Tensor& x, const Tensor& residual, const Tensor& scale,
                                const Tensor& bias, const Tensor& mean, const Tensor& variance,
                                int activation, bool frozen, float momentum, float epsilon) {
  return forward_any(x, &residual, scale, bias, mean, variance, activation, frozen, momentum, epsilon);
}

std::vector<Tensor> backward_add(const Tensor& x, const Tensor& scale, const Tensor& bias, const Tensor& y,
                                 const Tensor& saved, const Tensor& grad, int activation, bool frozen, float,
                                 float) {
  expect_inputs(x, nullptr, scale, bias, activation, frozen);
  expect_tensor(y, x.shape(), "an output");
  Tensor dresidual = paddle::empty_like(x);
  std::vector<Tensor> found = backward_any(x, dresidual.data<float>(), scale, bias, &y, saved, grad,
                                           activation, frozen);
  return {found[0], dresidual, found[1], found[2]};
}

std::vector<Shape> shapes(const Shape& x, const Shape&, const Shape&, const Shape&, const Shape&, int, bool,
                          float, float) {
  expect(x.size() == 4, "a map [N, C, H, W]", x);
  return {x, {3, x[1]}};
}

std::vector<Shape> shapes_add(const Shape& x, const Shape&, const Shape&, const Shape&, const Shape&,
                              const Shape&, int, bool, float, float) {
  expect(x.size() == 4, "a map [N, C, H, W]", x);
  return {x, {3, x[1]}};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_batch_norm, forward, backward, PD_INFER_SHAPE(paddle_attn::shapes),
               {"X", "Scale", "Bias"},
               {"activation: int", "frozen: bool", "momentum: float", "epsilon: float"}, {"Statistics"},
               {"Mean", "Variance"});

FUSED_OPERATOR(paddle_attn_batch_norm_add, forward_add, backward_add,
               PD_INFER_SHAPE(paddle_attn::shapes_add), {"X", "Residual", "Scale", "Bias"},
               {"activation: int", "frozen: bool", "momentum: float", "epsilon: float"}, {"Y", "Statistics"},
               {"Mean", "Variance"}, {"Residual"});
