// The 3x3 depthwise convolution with padding 1:
//   paddle_attn_depthwise(x [N, C, H, W], weight [C, 1, 3, 3], stride) -> y [N, C, H', W']
//   stride is 1 or 2, H' = ceil(H / stride), W' likewise
//
// A plane is copied into a frame of zeros, so that borders need no special case: one flat loop computes all
// outputs, and a few unused ones between the rows. Stride 2 computes stride 1 and keeps every second output;
// its backward puts zeros between the gradients. That is four times the arithmetic for the few layers with
// stride 2, still far cheaper than the memory traffic. In the gradients, those zeros make NaN of a weight or
// an input that is not finite, where Paddle's kernel may give Inf or skip it.
#include "common.h"

namespace paddle_attn {
namespace {

// The frame of an H x W plane: rows of `pitch` = W + 2 elements with a zero at both ends, a row of zeros
// above and below, and one more row, which the flat loop reads past the end.
struct Frame {
  Index height, width, pitch, flat;

  Frame(Index height, Index width)
      : height(height), width(width), pitch(width + 2), flat(height * (width + 2)) {}
  Index floats() const { return (height + 3) * pitch; }

  // Copies a plane of ceil(H / stride) x ceil(W / stride) elements in, `stride` apart. The elements between
  // them stay zero.
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

  // Copies every `stride`-th element of the flat result out.
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
  const float t0 = tap[0], t1 = tap[1], t2 = tap[2], t3 = tap[3], t4 = tap[4], t5 = tap[5], t6 = tap[6],
              t7 = tap[7], t8 = tap[8];
#pragma omp simd
  for (Index i = 0; i < f.flat; ++i) {
    out[i] = above[i] * t0 + above[i + 1] * t1 + above[i + 2] * t2 + middle[i] * t3 + middle[i + 1] * t4 +
             middle[i + 2] * t5 + below[i] * t6 + below[i + 1] * t7 + below[i + 2] * t8;
  }
}

// tap[dy, dx] = sum over i of frame[i + dy pitch + dx] g[i], where g is zero between the rows
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

Shape output_shape(const Shape& x, Index stride) {
  return {x[0], x[1], (x[2] + stride - 1) / stride, (x[3] + stride - 1) / stride};
}

void expect_inputs(const Tensor& x, const Tensor& weight, int stride) {
  expect_map(x);
  expect_tensor(weight, {x.shape()[1], 1, 3, 3}, "a weight");
  expect(stride == 1 || stride == 2, "a stride of 1 or 2", {stride});
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, int stride) {
  expect_inputs(x, weight, stride);
  const Shape shape = output_shape(x.shape(), stride);
  Tensor y = paddle::empty(shape, x.dtype(), x.place());
  const Index channels = shape[1], planes = shape[0] * channels, size = shape[2] * shape[3];
  const Frame f(x.shape()[2], x.shape()[3]);
  const float *from = x.data<float>(), *tap = weight.data<float>();
  float* to = y.data<float>();
  const Scratch scratch(f.floats() + f.flat);
#pragma omp parallel
  {
    float *frame = scratch.of_thread(), *out = frame + f.floats();
    std::fill(frame, out, 0.0f);
#pragma omp for
    for (Index p = 0; p < planes; ++p) {
      f.put(from + p * f.height * f.width, frame, 1);
      correlate(frame, tap + p % channels * 9, out, f);
      f.take(out, to + p * size, stride);
    }
  }
  return {y};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& grad, int stride) {
  expect_inputs(x, weight, stride);
  expect_gradient(grad, output_shape(x.shape(), stride));
  Tensor dx = paddle::empty_like(x), dweight = paddle::empty_like(weight);
  const Index channels = x.shape()[1], planes = x.shape()[0] * channels,
              size = grad.shape()[2] * grad.shape()[3];
  const Frame f(x.shape()[2], x.shape()[3]);
  const float *from = x.data<float>(), *g = grad.data<float>(), *tap = weight.data<float>();
  float* to = dx.data<float>();
  const Scratch taps(planes * 9, 1), scratch(2 * f.floats() + f.flat);
  float* by_plane = taps.part(0);
#pragma omp parallel
  {
    float *frame = scratch.of_thread(), *gradient = frame + f.floats(), *out = gradient + f.floats();
    std::fill(frame, out, 0.0f);
#pragma omp for
    for (Index p = 0; p < planes; ++p) {
      f.put(from + p * f.height * f.width, frame, 1);
      f.put(g + p * size, gradient, stride);
      correlate_with_gradient(frame, gradient + f.pitch + 1, by_plane + p * 9, f);
      float flipped[9];
      std::reverse_copy(tap + p % channels * 9, tap + p % channels * 9 + 9, flipped);
      correlate(gradient, flipped, out, f);
      f.take(out, to + p * f.height * f.width, 1);
    }
  }
  float* dtap = dweight.data<float>();
  std::fill(dtap, dtap + channels * 9, 0.0f);
  for (Index p = 0; p < planes; ++p) {
    for (Index k = 0; k < 9; ++k) dtap[p % channels * 9 + k] += by_plane[p * 9 + k];
  }
  return {dx, dweight};
}

std::vector<Shape> shape_of_y(const Shape& x, const Shape&, int stride) {
  expect(x.size() == 4 && stride > 0, "a map [N, C, H, W] and a positive stride", x);
  return {output_shape(x, stride)};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_depthwise, forward, backward, PD_INFER_SHAPE(paddle_attn::shape_of_y),
               {"X", "Weight"}, {"stride: int"});
