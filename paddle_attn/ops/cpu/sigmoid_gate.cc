// A gate from another map, with a factor and a shift for each channel:
//   paddle_attn_sigmoid_gate(x [N, C, H, W], z [N, C, H, W], factor [C], shift [C]) -> y [N, C, H, W]
//   y = x a, a = sigmoid(z factor_c + shift_c)
#include "common.h"

namespace paddle_attn {
namespace {

void expect_inputs(const Tensor& x, const Tensor& z, const Tensor& factor, const Tensor& shift) {
  expect_map(x);
  expect_tensor(z, x.shape(), "a map for the gate");
  expect_tensor(factor, {x.shape()[1]}, "a factor");
  expect_tensor(shift, {x.shape()[1]}, "a shift");
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& z, const Tensor& factor, const Tensor& shift) {
  expect_inputs(x, z, factor, shift);
  Tensor y = paddle::empty_like(x);
  const Index channels = x.shape()[1], planes = x.shape()[0] * channels, size = x.shape()[2] * x.shape()[3];
  const float *from = x.data<float>(), *map = z.data<float>();
  const float *factors = factor.data<float>(), *shifts = shift.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float *row = from + p * size, *other = map + p * size;
    const float by = factors[p % channels], start = shifts[p % channels];
    float* out = to + p * size;
    for_each_vector(size, [=](Index i, auto count) {
      store(load(row + i, count) * sigmoid(load(other + i, count) * by + start), out + i, count);
    });
  }
  return {y};
}

// With the gradient g of y and h = g x a (1 - a):
//   dx = g a, dz = h factor, dfactor = sum(h z), dshift = sum(h)
std::vector<Tensor> backward(const Tensor& x, const Tensor& z, const Tensor& factor, const Tensor& shift,
                             const Tensor& grad) {
  expect_inputs(x, z, factor, shift);
  expect_gradient(grad, x.shape());
  Tensor dx = paddle::empty_like(x), dz = paddle::empty_like(z), dfactor = paddle::empty_like(factor),
         dshift = paddle::empty_like(shift);
  const Index batch = x.shape()[0], channels = x.shape()[1], planes = batch * channels,
              size = x.shape()[2] * x.shape()[3];
  const float *from = x.data<float>(), *map = z.data<float>(), *g = grad.data<float>();
  const float *factors = factor.data<float>(), *shifts = shift.data<float>();
  float *to = dx.data<float>(), *to_map = dz.data<float>();
  const Scratch sums(2 * planes, 1);
  float *by_factor = sums.part(0), *by_shift = by_factor + planes;
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float *row = from + p * size, *other = map + p * size, *gradient = g + p * size;
    const float by = factors[p % channels], start = shifts[p % channels];
    float *out = to + p * size, *out_map = to_map + p * size;
    Vector of_factor = {}, of_shift = {};
    for_each_vector(size, [&](Index i, auto count) {
      const Vector v = load(gradient + i, count), w = load(other + i, count), a = sigmoid(w * by + start);
      const Vector h = v * load(row + i, count) * a * (1.0f - a);  // zero in lanes beyond `count`, where v is
      of_factor += h * w;
      of_shift += h;
      store(v * a, out + i, count);
      store(h * by, out_map + i, count);
    });
    by_factor[p] = sum_of_lanes(of_factor);
    by_shift[p] = sum_of_lanes(of_shift);
  }
  for (Index c = 0; c < channels; ++c) {
    double of_factor = 0.0, of_shift = 0.0;
    for (Index p = c; p < planes; p += channels) of_factor += by_factor[p], of_shift += by_shift[p];
    dfactor.data<float>()[c] = static_cast<float>(of_factor);
    dshift.data<float>()[c] = static_cast<float>(of_shift);
  }
  return {dx, dz, dfactor, dshift};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_sigmoid_gate, forward, backward, paddle_attn::shape_of_first_input,
               {"X", "Z", "Factor", "Shift"});
