// Max pooling:
//   paddle_attn_max_pool(x [N, C, H, W], kernel, stride, padding) -> y [N, C, H', W']
//   H' = (H + 2 padding - kernel) / stride + 1, W' likewise
// Backward searches for the maximum again. The first maximum in a window gets the gradient, as in Paddle's
// kernel.
#include "common.h"

namespace paddle_attn {
namespace {

struct Window {
  Index height, width, out_height, out_width, kernel, stride, padding;

  Window(const std::vector<Index>& x, Index kernel, Index stride, Index padding)
      : height(x[2]), width(x[3]), kernel(kernel), stride(stride), padding(padding) {
    out_height = (height + 2 * padding - kernel) / stride + 1;
    out_width = (width + 2 * padding - kernel) / stride + 1;
  }

  // The index in the plane of the maximum of window (row, column)
  Index argmax(const float* plane, Index row, Index column) const {
    const Index top = std::max<Index>(row * stride - padding, 0),
                bottom = std::min(row * stride - padding + kernel, height);
    const Index left = std::max<Index>(column * stride - padding, 0),
                right = std::min(column * stride - padding + kernel, width);
    Index best = top * width + left;
    for (Index y = top; y < bottom; ++y) {
      for (Index at = y * width + left; at < y * width + right; ++at) {
        if (plane[at] > plane[best]) best = at;
      }
    }
    return best;
  }
};

std::vector<Tensor> forward(const Tensor& x, int kernel, int stride, int padding) {
  expect_maps(x);
  const Shape shape = x.shape();
  const Window window(shape, kernel, stride, padding);
  Tensor y = paddle::empty({shape[0], shape[1], window.out_height, window.out_width}, x.dtype(), x.place());
  const Index planes = shape[0] * shape[1], size = shape[2] * shape[3],
              out_size = window.out_height * window.out_width;
  const float* from = x.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float* plane = from + p * size;
    float* out = to + p * out_size;
    for (Index row = 0; row < window.out_height; ++row) {
      if (kernel == 2 && stride == 2 && padding == 0) {  // the common case, vectorised
        const float *a = plane + 2 * row * window.width, *b = a + window.width;
        float* line = out + row * window.out_width;
#pragma omp simd
        for (Index i = 0; i < window.out_width; ++i)
          line[i] = std::max(std::max(a[2 * i], a[2 * i + 1]), std::max(b[2 * i], b[2 * i + 1]));
      } else {
        for (Index column = 0; column < window.out_width; ++column)
          out[row * window.out_width + column] = plane[window.argmax(plane, row, column)];
      }
    }
  }
  return {y};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& grad, int kernel, int stride, int padding) {
  const Shape shape = x.shape();
  const Window window(shape, kernel, stride, padding);
  Tensor dx = paddle::empty_like(x);
  const Index planes = shape[0] * shape[1], size = shape[2] * shape[3],
              out_size = window.out_height * window.out_width;
  const float *from = x.data<float>(), *g = grad.data<float>();
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    std::fill(to + p * size, to + (p + 1) * size, 0.0f);
    for (Index row = 0; row < window.out_height; ++row) {
      for (Index column = 0; column < window.out_width; ++column) {
        to[p * size + window.argmax(from + p * size, row, column)] +=
            g[p * out_size + row * window.out_width + column];
      }
    }
  }
  return {dx};
}

std::vector<Shape> shape_of_y(const Shape& x, int kernel, int stride, int padding) {
  const Window window(x, kernel, stride, padding);
  return {{x[0], x[1], window.out_height, window.out_width}};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_max_pool, forward, backward, PD_INFER_SHAPE(paddle_attn::shape_of_y), {"X"},
               {"kernel: int", "stride: int", "padding: int"});
