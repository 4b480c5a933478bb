// The 3x3 depthwise convolution with padding 1 and stride 1 or 2.
//
// A plane is copied into a frame of zeros, so that no border is special: one flat loop over it computes every output, and a few
// between the rows that nobody reads. Stride 2 computes as stride 1 and keeps every second output; backward spreads the gradient out
// with zeros between. That is four times the work for the few layers with stride 2, still far below the cost of memory.
#include "common.h"

namespace paddle_attn {
namespace {

// Frames of an H x W plane: rows of `pitch` = W + 2 with a zero at both ends, a row of zeros above and below, and slack behind.
struct Frame {
  Index height, width, pitch, flat;

  Frame(Index height, Index width) : height(height), width(width), pitch(width + 2), flat(height * (width + 2)) {}
  std::vector<float> zeros() const { return std::vector<float>((height + 3) * pitch); }

  // A plane of ceil(H / stride) x ceil(W / stride), each element `stride` apart; what lies between stays zero.
  void put(const float* plane, float* frame, Index stride) const {
    for (Index y = 0; y < height; y += stride) {
      float* row = frame + (y + 1) * pitch + 1;
      if (stride == 1) {
        std::copy(plane, plane + width, row);
        plane += width;
      } else {
        for (Index x = 0; x < width; x += stride) row[x] = *plane++;
      }
    }
  }

  void take(const float* flat_rows, float* plane, Index stride) const {
    for (Index y = 0; y < height; y += stride) {
      const float* row = flat_rows + y * pitch;
      if (stride == 1) {
        std::copy(row, row + width, plane);
        plane += width;
      } else {
        for (Index x = 0; x < width; x += stride) *plane++ = row[x];
      }
    }
  }
};

// out[i] = sum over the nine taps of frame[i + dy pitch + dx] tap[dy, dx]
void correlate(const float* frame, const float* tap, float* out, const Frame& f) {
  const float *above = frame, *middle = frame + f.pitch, *below = frame + 2 * f.pitch;
  const float t0 = tap[0], t1 = tap[1], t2 = tap[2], t3 = tap[3], t4 = tap[4], t5 = tap[5], t6 = tap[6], t7 = tap[7], t8 = tap[8];
#pragma omp simd
  for (Index i = 0; i < f.flat; ++i) {
    out[i] = above[i] * t0 + above[i + 1] * t1 + above[i + 2] * t2 + middle[i] * t3 + middle[i + 1] * t4 + middle[i + 2] * t5 +
             below[i] * t6 + below[i + 1] * t7 + below[i + 2] * t8;
  }
}

// tap[dy, dx] = sum over i of frame[i + dy pitch + dx] g[i], with g zero between the rows
void correlate_with_gradient(const float* frame, const float* g, float* tap, const Frame& f) {
  const float *above = frame, *middle = frame + f.pitch, *below = frame + 2 * f.pitch;
  float t0 = 0, t1 = 0, t2 = 0, t3 = 0, t4 = 0, t5 = 0, t6 = 0, t7 = 0, t8 = 0;
#pragma omp simd reduction(+ : t0, t1, t2, t3, t4, t5, t6, t7, t8)
  for (Index i = 0; i < f.flat; ++i) {
    const float gradient = g[i];
    t0 += above[i] * gradient, t1 += above[i + 1] * gradient, t2 += above[i + 2] * gradient;
    t3 += middle[i] * gradient, t4 += middle[i + 1] * gradient, t5 += middle[i + 2] * gradient;
    t6 += below[i] * gradient, t7 += below[i + 1] * gradient, t8 += below[i + 2] * gradient;
  }
  const float taps[] = {t0, t1, t2, t3, t4, t5, t6, t7, t8};
  std::copy(taps, taps + 9, tap);
}

using Shape = std::vector<Index>;

Shape output_shape(const Shape& x, Index stride) { return {x[0], x[1], (x[2] + stride - 1) / stride, (x[3] + stride - 1) / stride}; }

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, int stride) {
  expect_maps(x);
  expect(weight.shape() == Shape({x.shape()[1], 1, 3, 3}) && (stride == 1 || stride == 2), "a weight [C, 1, 3, 3] and a stride of 1 or 2");
  const Shape shape = output_shape(x.shape(), stride);
  Tensor y = paddle::empty(shape, x.dtype(), x.place());
  const Index channels = shape[1], planes = shape[0] * channels, size = shape[2] * shape[3];
  const Frame f(x.shape()[2], x.shape()[3]);
  const float *from = x.data<float>(), *tap = weight.data<float>();
  float* to = y.data<float>();
#pragma omp parallel
  {
    std::vector<float> frame = f.zeros(), out(f.flat);
#pragma omp for
    for (Index p = 0; p < planes; ++p) {
      f.put(from + p * f.height * f.width, frame.data(), 1);
      correlate(frame.data(), tap + p % channels * 9, out.data(), f);
      f.take(out.data(), to + p * size, stride);
    }
  }
  return {y};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& grad, int stride) {
  Tensor dx = paddle::empty_like(x), dweight = paddle::empty_like(weight);
  const Index channels = x.shape()[1], planes = x.shape()[0] * channels, size = grad.shape()[2] * grad.shape()[3];
  const Frame f(x.shape()[2], x.shape()[3]);
  const float *from = x.data<float>(), *g = grad.data<float>(), *tap = weight.data<float>();
  float* to = dx.data<float>();
  std::vector<float> by_plane(planes * 9);
#pragma omp parallel
  {
    std::vector<float> frame = f.zeros(), gradient = f.zeros(), out(f.flat);
#pragma omp for
    for (Index p = 0; p < planes; ++p) {
      f.put(from + p * f.height * f.width, frame.data(), 1);
      f.put(g + p * size, gradient.data(), stride);
      correlate_with_gradient(frame.data(), gradient.data() + f.pitch + 1, &by_plane[p * 9], f);
      float flipped[9];
      std::reverse_copy(tap + p % channels * 9, tap + p % channels * 9 + 9, flipped);
      correlate(gradient.data(), flipped, out.data(), f);
      f.take(out.data(), to + p * f.height * f.width, 1);
    }
  }
  float* dtap = dweight.data<float>();
  std::fill(dtap, dtap + channels * 9, 0.0f);
  for (Index p = 0; p < planes; ++p) {
    for (Index k = 0; k < 9; ++k) dtap[p % channels * 9 + k] += by_plane[p * 9 + k];
  }
  return {dx, dweight};
}

std::vector<Shape> shape_of_y(const Shape& x, const Shape& weight, int stride) { return {output_shape(x, stride)}; }
std::vector<paddle::DataType> type_of_x(const paddle::DataType& x, const paddle::DataType& weight) { return {x}; }

}  // namespace
}  // namespace paddle_attn

PD_BUILD_OP(paddle_attn_depthwise)
    .Inputs({"X", "Weight"})
    .Outputs({"Y"})
    .Attrs({"stride: int"})
    .SetKernelFn(PD_KERNEL(paddle_attn::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_attn::shape_of_y))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_attn::type_of_x));

PD_BUILD_GRAD_OP(paddle_attn_depthwise)
    .Inputs({"X", "Weight", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .Attrs({"stride: int"})
    .SetKernelFn(PD_KERNEL(paddle_attn::backward));

PD_BUILD_DOUBLE_GRAD_OP(paddle_attn_depthwise)
    .Inputs({"X", "Weight", paddle::Grad("Y"), paddle::Grad(paddle::Grad("X")), paddle::Grad(paddle::Grad("Weight"))})
    .Outputs({paddle::Grad(paddle::Grad("Y"))})
    .Attrs({"stride: int"})
    .SetKernelFn(PD_KERNEL((paddle_attn::no_second_derivative<paddle_attn::In, paddle_attn::In, paddle_attn::In, paddle_attn::In, paddle_attn::In, int>)));
