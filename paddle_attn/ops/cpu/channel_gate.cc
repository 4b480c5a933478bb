// Channels multiplied by a gate from their global averages (and maxima), with the perceptron in between:
//   paddle_attn_se(x [N, C, H, W], w1 [C, R], w2 [R, C]) -> y = x sigmoid(p(mean))
//   paddle_attn_cbam(x, w1, b1 [R], w2, b2 [C]) -> y = x sigmoid(p(mean) + p(max)), and the maximum and the
//                                                  mean of y over its channels [N, 2, H, W]
//   p(v) = relu(v w1 + b1) w2 + b2, without biases in the first
// Images are taken in groups that stay in the cache between the passes. Backward saves x, the means and the
// maxima, and of CBAM the maps of y's maximum and mean.
#include "common.h"

namespace paddle_attn {
namespace {

constexpr Index kGroup = 1 << 20;  // floats of x in a group of images, several of which fit the cache

// The first place of a value in a row; `size` when it is not there
inline Index place_of(float value, const float* row, Index size) {
  Index i = 0;
#ifdef __AVX512F__
  for (; i + kLanes <= size; i += kLanes)
    if (_mm512_cmpeq_ps_mask((__m512)load(row + i), _mm512_set1_ps(value))) break;
#endif
  return std::find(row + i, row + size, value) - row;
}

// Shapes, and the weights of the perceptron in Paddle's layout.
struct Gate {
  Index batch, channels, size, width;
  Index branches;  // 1: the mean; 2: the mean and the maximum
  const float *w1, *b1, *w2, *b2;

  Gate(const Tensor& x, const Tensor& first, const Tensor* bias1, const Tensor& second, const Tensor* bias2) {
    expect_map(x);
    batch = x.shape()[0], channels = x.shape()[1], size = x.shape()[2] * x.shape()[3];
    width = first.shape().size() == 2 ? first.shape()[1] : 0;
    branches = bias1 ? 2 : 1;
    expect(width > 0, "a first weight [C, R]", first.shape());
    expect_tensor(first, {channels, width}, "a first weight");
    expect_tensor(second, {width, channels}, "a second weight");
    if (bias1) {
      expect_tensor(*bias1, {width}, "a first bias");
      expect_tensor(*bias2, {channels}, "a second bias");
    }
    w1 = first.data<float>(), w2 = second.data<float>();
    b1 = bias1 ? bias1->data<float>() : nullptr, b2 = bias2 ? bias2->data<float>() : nullptr;
  }

  Index images_in_group() const { return std::max<Index>(1, kGroup / (channels * size)); }

  // The mean of a plane, and its maximum when there are two branches, into pooled [N, branches, C].
  void pool(const float* x, Index plane, float* pooled) const {
    float* to = pooled + plane / channels * branches * channels + plane % channels;
    x += plane * size;
    if (branches == 1) {
      to[0] = sum(x, size) / static_cast<float>(size);
      return;
    }
    Vector most = Vector{} + kLowest;
    const float total = sum_of(size, [&](Index i, auto count) {
      const Vector v = load(x + i, count), w = first(v, count, Vector{} + kLowest);
      most = w > most ? w : most;
      return v;
    });
    to[0] = total / static_cast<float>(size);
    to[channels] = largest_of_lanes(most);
  }

  // relu(pooled w1 + b1) [R]. Of NaN, Paddle's ReLU makes 0.
  void hide(const float* pooled, float* hidden) const {
    for (Index r = 0; r < width; ++r) hidden[r] = b1 ? b1[r] : 0.0f;
    for (Index c = 0; c < channels; ++c) {
      const float value = pooled[c], *row = w1 + c * width;
#pragma omp simd
      for (Index r = 0; r < width; ++r) hidden[r] += value * row[r];
    }
    for (Index r = 0; r < width; ++r) hidden[r] = hidden[r] > 0.0f ? hidden[r] : 0.0f;
  }

  // The gate [C] of one image, and its hidden layers [branches, R]. Pooled is [branches, C].
  void gate(const float* pooled, float* hidden, float* gate) const {
    for (Index c = 0; c < channels; ++c) gate[c] = b2 ? static_cast<float>(branches) * b2[c] : 0.0f;
    for (Index b = 0; b < branches; ++b) {
      hide(pooled + b * channels, hidden + b * width);
      for (Index r = 0; r < width; ++r) {
        const float value = hidden[b * width + r], *row = w2 + r * channels;
#pragma omp simd
        for (Index c = 0; c < channels; ++c) gate[c] += value * row[c];
      }
    }
    for_each_vector(channels, [gate](Index c, auto count) {
      const Vector z = load(gate + c, count);
      store(z < -87.0f ? Vector{} : sigmoid(z), gate + c, count);  // 0 for -Inf
    });
  }

  // From the gate's gradient du before the sigmoid [C]: that of the hidden layers [branches, R] before their
  // ReLU, and of pooled.
  void backward(const float* du, const float* hidden, float* dhidden, float* dpooled) const {
    for (Index r = 0; r < width; ++r) {
      const float* row = w2 + r * channels;
      float total = 0.0f;
#pragma omp simd reduction(+ : total)
      for (Index c = 0; c < channels; ++c) total += du[c] * row[c];
      for (Index b = 0; b < branches; ++b)  // a product, as in Paddle, so that NaN stays NaN
        dhidden[b * width + r] = total * (hidden[b * width + r] > 0.0f ? 1.0f : 0.0f);
    }
    for (Index b = 0; b < branches; ++b) {
      for (Index c = 0; c < channels; ++c) {
        const float *row = w1 + c * width, *gradient = dhidden + b * width;
        float total = 0.0f;
#pragma omp simd reduction(+ : total)
        for (Index r = 0; r < width; ++r) total += gradient[r] * row[r];
        dpooled[b * channels + c] = total;
      }
    }
  }
};

// For each group of images, as many passes as are given. Each pass has a function of an index below its count
// for one image; a thread takes some of the indices of the whole group.
template <class Pass>
void over(Index first, Index last, Index count, Pass pass) {
#pragma omp parallel for
  for (Index k = first * count; k < last * count; ++k) pass(k);
}

// What backward needs of each image.
struct Gradients {
  Scratch memory;
  float *du, *hidden, *dhidden, *dpooled;  // [N, C], [N, branches, R] twice, [N, branches, C]

  explicit Gradients(const Gate& g)
      : memory(g.batch * (g.channels + 2 * g.branches * g.width + g.branches * g.channels), 1),
        du(memory.part(0)),
        hidden(du + g.batch * g.channels),
        dhidden(hidden + g.batch * g.branches * g.width),
        dpooled(dhidden + g.batch * g.branches * g.width) {}

  // du holds the gradient of the gate of image n; it becomes that before the sigmoid.
  void through_perceptron(const Gate& g, Index n, const float* pooled, float* gate) {
    float *u = du + n * g.channels, *h = hidden + n * g.branches * g.width;
    g.gate(pooled + n * g.branches * g.channels, h, gate);
    for (Index c = 0; c < g.channels; ++c) u[c] *= gate[c] * (1.0f - gate[c]);
    g.backward(u, h, dhidden + n * g.branches * g.width, dpooled + n * g.branches * g.channels);
  }

  // The gradients of the perceptron's weights, and of its biases when they are not null.
  void of_weights(const Gate& g, const float* pooled, float* dw1, float* db1, float* dw2, float* db2) const {
    const Index rows = g.batch * g.branches;
#pragma omp parallel for
    for (Index c = 0; c < g.channels; ++c) {
      float* to = dw1 + c * g.width;
      std::fill(to, to + g.width, 0.0f);
      for (Index k = 0; k < rows; ++k) {
        const float value = pooled[k * g.channels + c], *row = dhidden + k * g.width;
#pragma omp simd
        for (Index r = 0; r < g.width; ++r) to[r] += value * row[r];
      }
    }
#pragma omp parallel for
    for (Index r = 0; r < g.width; ++r) {
      float* to = dw2 + r * g.channels;
      std::fill(to, to + g.channels, 0.0f);
      for (Index k = 0; k < rows; ++k) {
        const float value = hidden[k * g.width + r], *row = du + k / g.branches * g.channels;
#pragma omp simd
        for (Index c = 0; c < g.channels; ++c) to[c] += value * row[c];
      }
    }
    if (!db1) return;
    std::fill(db1, db1 + g.width, 0.0f);
    for (Index k = 0; k < rows; ++k)
      for (Index r = 0; r < g.width; ++r) db1[r] += dhidden[k * g.width + r];
    std::fill(db2, db2 + g.channels, 0.0f);
    for (Index n = 0; n < g.batch; ++n)
      for (Index c = 0; c < g.channels; ++c)
        db2[c] += static_cast<float>(g.branches) * du[n * g.channels + c];
  }
};

std::vector<Tensor> se(const Tensor& x, const Tensor& w1, const Tensor& w2) {
  const Gate g(x, w1, nullptr, w2, nullptr);
  Tensor y = paddle::empty_like(x), pooled = paddle::empty({g.batch, 1, g.channels}, x.dtype(), x.place());
  const Scratch memory(g.batch * (g.width + g.channels), 1);
  const float* from = x.data<float>();
  float *to = y.data<float>(), *p = pooled.data<float>(), *gates = memory.part(0),
        *hidden = gates + g.batch * g.channels;
  for (Index first = 0; first < g.batch; first += g.images_in_group()) {
    const Index last = std::min(first + g.images_in_group(), g.batch);
    over(first, last, g.channels, [&](Index plane) { g.pool(from, plane, p); });
    over(first, last, 1,
         [&](Index n) { g.gate(p + n * g.channels, hidden + n * g.width, gates + n * g.channels); });
    over(first, last, g.channels, [&](Index plane) {
      const float *row = from + plane * g.size, factor = gates[plane];
      float* out = to + plane * g.size;
#pragma omp simd
      for (Index i = 0; i < g.size; ++i) out[i] = row[i] * factor;
    });
  }
  return {y, pooled};
}

std::vector<Tensor> se_backward(const Tensor& x, const Tensor& w1, const Tensor& w2, const Tensor& pooled,
                                const Tensor& grad) {
  const Gate g(x, w1, nullptr, w2, nullptr);
  expect_tensor(pooled, {g.batch, 1, g.channels}, "saved means");
  expect_gradient(grad, x.shape());
  Tensor dx = paddle::empty_like(x), dw1 = paddle::empty_like(w1), dw2 = paddle::empty_like(w2);
  Gradients gradients(g);
  const Scratch memory(g.batch * g.channels, 1);
  const float *from = x.data<float>(), *by_y = grad.data<float>(), *p = pooled.data<float>();
  float *to = dx.data<float>(), *gates = memory.part(0);
  for (Index first = 0; first < g.batch; first += g.images_in_group()) {
    const Index last = std::min(first + g.images_in_group(), g.batch);
    over(first, last, g.channels, [&](Index plane) {
      const float *row = from + plane * g.size, *gradient = by_y + plane * g.size;
      gradients.du[plane] = sum_of(
          g.size, [=](Index i, auto count) { return load(gradient + i, count) * load(row + i, count); });
    });
    over(first, last, 1, [&](Index n) { gradients.through_perceptron(g, n, p, gates + n * g.channels); });
    over(first, last, g.channels, [&](Index plane) {
      const float *gradient = by_y + plane * g.size, factor = gates[plane],
                  by_mean = gradients.dpooled[plane] / static_cast<float>(g.size);
      float* out = to + plane * g.size;
#pragma omp simd
      for (Index i = 0; i < g.size; ++i) out[i] = gradient[i] * factor + by_mean;
    });
  }
  gradients.of_weights(g, p, dw1.data<float>(), nullptr, dw2.data<float>(), nullptr);
  return {dx, dw1, dw2};
}

// A stretch of the places of one image, through all its channels.
struct Places {
  Index image, first, count;

  static Index in_image(Index size) { return (size + kStretch - 1) / kStretch; }
  Places(Index k, Index size)
      : image(k / in_image(size)),
        first(k % in_image(size) * kStretch),
        count(std::min(kStretch, size - first)) {}
};

std::vector<Tensor> cbam(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2,
                         const Tensor& b2) {
  const Gate g(x, w1, &b1, w2, &b2);
  Tensor y = paddle::empty_like(x), pooled = paddle::empty({g.batch, 2, g.channels}, x.dtype(), x.place()),
         places = paddle::empty({g.batch, 2, x.shape()[2], x.shape()[3]}, x.dtype(), x.place());
  const Scratch memory(g.batch * (2 * g.width + g.channels), 1);
  const float* from = x.data<float>();
  float *to = y.data<float>(), *p = pooled.data<float>(), *gates = memory.part(0),
        *hidden = gates + g.batch * g.channels, *by_place = places.data<float>();
  for (Index start = 0; start < g.batch; start += g.images_in_group()) {
    const Index last = std::min(start + g.images_in_group(), g.batch);
    over(start, last, g.channels, [&](Index plane) { g.pool(from, plane, p); });
    over(start, last, 1,
         [&](Index n) { g.gate(p + 2 * n * g.channels, hidden + 2 * n * g.width, gates + n * g.channels); });
    over(start, last, Places::in_image(g.size), [&](Index k) {
      const auto [n, first, count] = Places(k, g.size);
      float *maximum = by_place + 2 * n * g.size + first, *mean = maximum + g.size;
      for (Index c = 0; c < g.channels; ++c) {
        const Index at = (n * g.channels + c) * g.size + first;
        const float *row = from + at, factor = gates[n * g.channels + c];
        float* out = to + at;
        if (c == 0) std::fill(maximum, maximum + count, kLowest), std::fill(mean, mean + count, 0.0f);
        for_each_vector(count, [=](Index i, auto lanes) {
          const Vector v = load(row + i, lanes) * factor, most = load(maximum + i, lanes);
          store(v, out + i, lanes);
          store(most > v ? most : v, maximum + i, lanes);  // as larger()
          store(load(mean + i, lanes) + v, mean + i, lanes);
        });
      }
      for (Index i = 0; i < count; ++i) mean[i] /= static_cast<float>(g.channels);
    });
  }
  return {y, places, pooled};
}

// The first channel that holds the maximum of a place receives its gradient, and the first place that holds
// the maximum of a plane.
std::vector<Tensor> cbam_backward(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2,
                                  const Tensor& b2, const Tensor& places, const Tensor& pooled,
                                  const Tensor& by_gated, const Tensor& by_pooled) {
  const Gate g(x, w1, &b1, w2, &b2);
  const Shape shape = x.shape();
  // an output may be unused
  const Tensor grad = by_gated.initialized() ? by_gated : paddle::experimental::zeros_like(x),
               grad_of_places =
                   by_pooled.initialized() ? by_pooled : paddle::experimental::zeros_like(places);
  expect_tensor(pooled, {g.batch, 2, g.channels}, "saved means and maxima");
  expect_tensor(places, {g.batch, 2, shape[2], shape[3]}, "a saved output");
  expect_gradient(grad, shape);
  expect_gradient(grad_of_places, places.shape());
  Tensor dx = paddle::empty_like(x), dw1 = paddle::empty_like(w1), dw2 = paddle::empty_like(w2),
         db1 = paddle::empty_like(b1), db2 = paddle::empty_like(b2);
  Gradients gradients(g);
  const Index stretches = Places::in_image(g.size);
  const Scratch memory(g.batch * g.channels * (1 + stretches) + 2 * g.batch * g.width, 1);
  std::vector<Index> first_places(g.batch * stretches * g.channels);  // of a plane's maximum, by stretch
  const float *from = x.data<float>(), *by_y = grad.data<float>(), *p = pooled.data<float>(),
              *highest = places.data<float>(), *by_places = grad_of_places.data<float>();
  float *to = dx.data<float>(), *gates = memory.part(0), *hidden = gates + g.batch * g.channels,
        *parts = hidden + 2 * g.batch * g.width;  // of the gate's gradient, [N, stretches, C]
  for (Index start = 0; start < g.batch; start += g.images_in_group()) {
    const Index last = std::min(start + g.images_in_group(), g.batch);
    over(start, last, 1,
         [&](Index n) { g.gate(p + 2 * n * g.channels, hidden + 2 * n * g.width, gates + n * g.channels); });
    over(start, last, stretches, [&](Index k) {
      const auto [n, first, count] = Places(k, g.size);
      const Index at_maximum = 2 * n * g.size + first;
      const float *maximum = highest + at_maximum, *by_maximum = by_places + at_maximum,
                  *by_mean = by_maximum + g.size;
      float left[kStretch], shared[kStretch];  // the maximum's gradient, 0 once it is given; the mean's
      for (Index i = 0; i < count; ++i) {
        left[i] = by_maximum[i], shared[i] = by_mean[i] / static_cast<float>(g.channels);
      }
      for (Index c = 0; c < g.channels; ++c) {
        const Index at = (n * g.channels + c) * g.size + first;
        const float *row = from + at, *gradient = by_y + at, factor = gates[n * g.channels + c];
        float* out = to + at;
        parts[k * g.channels + c] = sum_of(count, [&](Index i, auto lanes) {
          const Vector v = load(row + i, lanes), given = load(left + i, lanes);
          const auto here = v * factor == load(maximum + i, lanes);
          const Vector whole =
              load(gradient + i, lanes) + load(shared + i, lanes) + (here ? given : Vector{});
          store(here ? Vector{} : given, left + i, lanes);
          store(whole * factor, out + i, lanes);
          return whole * v;
        });
        const float most = p[(2 * n + 1) * g.channels + c];
        first_places[k * g.channels + c] = first + place_of(most, row, count);
      }
    });
    over(start, last, 1, [&](Index n) {
      for (Index c = 0; c < g.channels; ++c) {
        float total = 0.0f;
        for (Index k = 0; k < stretches; ++k) total += parts[(n * stretches + k) * g.channels + c];
        gradients.du[n * g.channels + c] = total;
      }
      gradients.through_perceptron(g, n, p, gates + n * g.channels);
    });
    over(start, last, g.channels, [&](Index plane) {
      const Index n = plane / g.channels, at = 2 * n * g.channels + plane % g.channels;
      const float by_mean = gradients.dpooled[at] / static_cast<float>(g.size);
      float* out = to + plane * g.size;
#pragma omp simd
      for (Index i = 0; i < g.size; ++i) out[i] += by_mean;
      for (Index k = 0; k < stretches; ++k) {  // of the image
        const Index place = first_places[(n * stretches + k) * g.channels + plane % g.channels];
        if (place < std::min((k + 1) * kStretch, g.size)) {
          out[place] += gradients.dpooled[at + g.channels];
          break;
        }
      }
    });
  }
  gradients.of_weights(g, p, dw1.data<float>(), db1.data<float>(), dw2.data<float>(), db2.data<float>());
  return {dx, dw1, db1, dw2, db2};
}

std::vector<Shape> shapes_of_se(const Shape& x, const Shape&, const Shape&) {
  expect(x.size() == 4, "a map [N, C, H, W]", x);
  return {x, {x[0], 1, x[1]}};
}

std::vector<Shape> shapes_of_cbam(const Shape& x, const Shape&, const Shape&, const Shape&, const Shape&) {
  expect(x.size() == 4, "a map [N, C, H, W]", x);
  return {x, {x[0], 2, x[2], x[3]}, {x[0], 2, x[1]}};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_se, se, se_backward, PD_INFER_SHAPE(paddle_attn::shapes_of_se), {"X", "W1", "W2"},
               {}, {"Pooled"});
FUSED_OPERATOR(paddle_attn_cbam, cbam, cbam_backward, PD_INFER_SHAPE(paddle_attn::shapes_of_cbam),
               {"X", "W1", "B1", "W2", "B2"}, {}, {"Places", "Pooled"}, {}, {}, {"Places"});
