// SimAM of each plane:
//   paddle_attn_simam(x [N, C, H, W], e_lambda) -> y [N, C, H, W]
//   y = x sigmoid(d^2 s + 0.5), d = x - mean, s = 1 / (4 (v + e_lambda)), v = sum(d^2) / (M - 1), M = H W
// A plane stays in the cache while it is processed. Backward saves only x.
#include "common.h"

namespace paddle_attn {
namespace {

struct Moments {
  float mean, s;
};

Moments moments(const float* x, Index size, float e_lambda) {
  const float mean = sum(x, size) / static_cast<float>(size);
  const float squares = sum_of(size, [=](Index i, auto count) {
    const Vector d = first(load(x + i, count) - mean, count);
    return d * d;
  });
  return {mean, 1.0f / (4.0f * (squares / static_cast<float>(std::max<Index>(size - 1, 1)) + e_lambda))};
}

void forward_plane(const float* x, float* y, Index size, float e_lambda) {
  const auto [mean, s] = moments(x, size, e_lambda);
  for_each_vector(size, [=](Index i, auto count) {
    const Vector v = load(x + i, count), d = v - mean;
    store(v * sigmoid(d * d * s + 0.5f), y + i, count);
  });
}

// With the gate a, the gradient g of y, and h = g x a (1 - a):
//   dx = g a + 2 s h d - (2 s / M) sum(h d) - (8 s^2 / (M - 1)) sum(h d^2) d
void backward_plane(const float* x, const float* g, float* dx, Index size, float e_lambda) {
  const auto [mean, s] = moments(x, size, e_lambda);
  Vector hd = {}, hdd = {};
  for_each_vector(size, [&, mean = mean, s = s](Index i, auto count) {
    const Vector v = load(x + i, count), gradient = load(g + i, count), d = v - mean;
    const Vector a = sigmoid(d * d * s + 0.5f);
    const Vector h_d = gradient * v * a * (1.0f - a) * d;  // zero in lanes beyond `count`, where v is
    hd += h_d;
    hdd += h_d * d;
    store(gradient * a + 2.0f * s * h_d, dx + i, count);
  });
  const float by_mean = 2.0f * s * sum_of_lanes(hd) / static_cast<float>(size);
  const float by_variance =
      8.0f * s * s * sum_of_lanes(hdd) / static_cast<float>(std::max<Index>(size - 1, 1));
  for_each_vector(size, [=, mean = mean](Index i, auto count) {
    store(load(dx + i, count) - (by_mean + by_variance * (load(x + i, count) - mean)), dx + i, count);
  });
}

std::vector<Tensor> forward(const Tensor& x, float e_lambda) {
  expect_map(x);
  Tensor y = paddle::empty_like(x);
  const Index planes = x.shape()[0] * x.shape()[1], size = x.shape()[2] * x.shape()[3];
  const float* from = x.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) forward_plane(from + p * size, to + p * size, size, e_lambda);
  return {y};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& grad, float e_lambda) {
  expect_map(x);
  expect_gradient(grad, x.shape());
  Tensor dx = paddle::empty_like(x);
  const Index planes = x.shape()[0] * x.shape()[1], size = x.shape()[2] * x.shape()[3];
  const float *from = x.data<float>(), *g = grad.data<float>();
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p)
    backward_plane(from + p * size, g + p * size, to + p * size, size, e_lambda);
  return {dx};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_simam, forward, backward, paddle_attn::shape_of_first_input, {"X"},
               {"e_lambda: float"});
