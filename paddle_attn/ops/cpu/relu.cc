// The rectifier:
//   paddle_attn_relu(x [N, C, H, W]) -> y [N, C, H, W], x where it is positive, otherwise 0, as of NaN
// Backward saves y. The gradient is a product, as in Paddle, so that NaN stays NaN.
#include "common.h"

namespace paddle_attn {
namespace {

// Calls body(i, count) for all vectors of a tensor
template <class Body>
void over_vectors(Index size, Body body) {
#pragma omp parallel for
  for (Index start = 0; start < size; start += kStretch) {
    for_each_vector(std::min(kStretch, size - start), [&](Index i, auto count) { body(start + i, count); });
  }
}

std::vector<Tensor> relu(const Tensor& x) {
  expect_map(x);
  Tensor y = paddle::empty_like(x);
  const float* from = x.data<float>();
  float* to = y.data<float>();
  over_vectors(x.numel(), [=](Index i, auto count) {
    const Vector v = load(from + i, count);
    store(v > 0.0f ? v : Vector{}, to + i, count);
  });
  return {y};
}

std::vector<Tensor> relu_backward(const Tensor& y, const Tensor& grad) {
  expect_map(y);
  expect_gradient(grad, y.shape());
  Tensor dx = paddle::empty_like(y);
  const float *from = y.data<float>(), *g = grad.data<float>();
  float* to = dx.data<float>();
  over_vectors(y.numel(), [=](Index i, auto count) {
    const Vector passes = load(from + i, count) > 0.0f ? Vector{} + 1.0f : Vector{};
    store(load(g + i, count) * passes, to + i, count);
  });
  return {dx};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_relu, relu, relu_backward, paddle_attn::shape_of_first_input, {"X"}, {}, {"Y"}, {},
               {"X"});
