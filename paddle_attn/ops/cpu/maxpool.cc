// Max pooling:
//   paddle_attn_max_pool(x [N, C, H, W], kernel, stride, padding) -> y [N, C, H', W']
//   H' = (H + 2 padding - kernel) / stride + 1, W' likewise
// Backward searches for the maximum again. Both equal Paddle's kernel bit for bit: the first maximum in a
// window gets the gradient; a NaN is the maximum until the next element replaces it; no maximum is below the
// lowest finite number, which is also that of a window in the padding.
#include "common.h"

namespace paddle_attn {
namespace {

struct Window {
  Index height, width, out_height, out_width, kernel, stride, padding;

  Window(const Shape& x, Index kernel, Index stride, Index padding)
      : kernel(kernel), stride(stride), padding(padding) {
    expect(x.size() == 4, "a map [N, C, H, W]", x);
    expect(kernel > 0 && stride > 0 && padding >= 0,
           "a positive kernel and stride, and a padding that is not negative", {kernel, stride, padding});
    height = x[2], width = x[3];
    out_height = (height + 2 * padding - kernel) / stride + 1;
    out_width = (width + 2 * padding - kernel) / stride + 1;
    expect(out_height >= 0 && out_width >= 0, "a map as large as the window", x);
  }

  // Whether every window is two pairs of neighbours
  bool is_pairs() const { return kernel == 2 && stride == 2 && padding == 0 && height > 1 && width > 1; }

  // The part of window (row, column) that lies in the plane: [top, bottom) and [left, right), maybe empty
  Index top(Index row) const { return std::max<Index>(row * stride - padding, 0); }
  Index bottom(Index row) const { return std::min(row * stride - padding + kernel, height); }
  Index left(Index column) const { return std::max<Index>(column * stride - padding, 0); }
  Index right(Index column) const { return std::min(column * stride - padding + kernel, width); }

  float maximum(const float* plane, Index row, Index column) const {
    float most = kLowest;
    for (Index y = top(row); y < bottom(row); ++y) {
      for (Index x = left(column); x < right(column); ++x) most = larger(most, plane[y * width + x]);
    }
    return most;
  }

  // Whether every window has an element in the plane, and none is NaN or -Inf
  bool is_ordinary(const float* plane) const {
    int others = padding >= kernel;
#pragma omp simd reduction(| : others)
    for (Index i = 0; i < height * width; ++i) others |= !(plane[i] >= kLowest);
    return !others;
  }

  // The index in an ordinary plane of the first maximum of window (row, column)
  Index argmax(const float* plane, Index row, Index column) const {
    const Index first = left(column), last = right(column);
    Index best = top(row) * width + first;
    float most = plane[best];
    for (Index y = top(row); y < bottom(row); ++y) {
      for (Index at = y * width + first; at < y * width + last; ++at) {
        const bool more = plane[at] > most;  // used twice, so that compilers emit no branch
        best = more ? at : best;
        most = more ? plane[at] : most;
      }
    }
    return best;
  }

  // The same in any plane: the first element that equals the maximum, -1 if none does
  Index argmax_in_any(const float* plane, Index row, Index column) const {
    const float most = maximum(plane, row, column);
    for (Index y = top(row); y < bottom(row); ++y) {
      for (Index x = left(column); x < right(column); ++x) {
        if (plane[y * width + x] == most) return y * width + x;
      }
    }
    return -1;
  }
};

std::vector<Tensor> forward(const Tensor& x, int kernel, int stride, int padding) {
  expect_map(x);
  const Shape shape = x.shape();
  const Window window(shape, kernel, stride, padding);
  Tensor y = paddle::empty({shape[0], shape[1], window.out_height, window.out_width}, x.dtype(), x.place());
  const Index planes = shape[0] * shape[1], size = shape[2] * shape[3],
              out_size = window.out_height * window.out_width;
  const bool pairs = window.is_pairs();
  const float* from = x.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float* plane = from + p * size;
    float* out = to + p * out_size;
    for (Index row = 0; row < window.out_height; ++row) {
      if (pairs) {  // the common case, vectorised
        const float *a = plane + 2 * row * window.width, *b = a + window.width;
        float* line = out + row * window.out_width;
#pragma omp simd
        for (Index i = 0; i < window.out_width; ++i)
          line[i] = larger(larger(larger(larger(kLowest, a[2 * i]), a[2 * i + 1]), b[2 * i]), b[2 * i + 1]);
      } else {
        for (Index column = 0; column < window.out_width; ++column)
          out[row * window.out_width + column] = window.maximum(plane, row, column);
      }
    }
  }
  return {y};
}

// Windows of two pairs: the gradient goes to the first element that equals the maximum, if one does.
void backward_of_pairs(const Window& window, const float* plane, const float* of_window, float* out) {
  const Index width = window.width;
  if (window.height % 2) std::fill(out + (window.height - 1) * width, out + window.height * width, 0.0f);
  for (Index row = 0; row < window.out_height; ++row) {
    const float *upper = plane + 2 * row * width, *lower = upper + width,
                *g = of_window + row * window.out_width;
    float *to_upper = out + 2 * row * width, *to_lower = to_upper + width;
    if (width % 2) to_upper[width - 1] = to_lower[width - 1] = 0.0f;
    for_each_vector(window.out_width, [=](Index i, auto count) {
      const Index low = 2 * count, high = low - kLanes;  // elements of a row in its first and second vector
      const Vector u0 = load(upper + 2 * i, low), u1 = load(upper + 2 * i + kLanes, high),
                   l0 = load(lower + 2 * i, low), l1 = load(lower + 2 * i + kLanes, high);
      const Vector elements[4] = {every_second<0>(u0, u1), every_second<1>(u0, u1), every_second<0>(l0, l1),
                                  every_second<1>(l0, l1)};
      Vector most = Vector{} + kLowest;
      for (const Vector& element : elements) most = most > element ? most : element;  // as larger()
      Vector left = load(g + i, count), given[4];
      for (int k = 0; k < 4; ++k) {
        const auto here = elements[k] == most;
        given[k] = here ? left : Vector{};
        left = here ? Vector{} : left;
      }
      store(interleave<0>(given[0], given[1]), to_upper + 2 * i, low);
      store(interleave<1>(given[0], given[1]), to_upper + 2 * i + kLanes, high);
      store(interleave<0>(given[2], given[3]), to_lower + 2 * i, low);
      store(interleave<1>(given[2], given[3]), to_lower + 2 * i + kLanes, high);
    });
  }
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& grad, int kernel, int stride, int padding) {
  expect_map(x);
  const Shape shape = x.shape();
  const Window window(shape, kernel, stride, padding);
  expect_gradient(grad, {shape[0], shape[1], window.out_height, window.out_width});
  Tensor dx = paddle::empty_like(x);
  const Index planes = shape[0] * shape[1], size = shape[2] * shape[3],
              out_size = window.out_height * window.out_width;
  const float *from = x.data<float>(), *g = grad.data<float>();
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float *plane = from + p * size, *of_window = g + p * out_size;
    float* out = to + p * size;
    if (window.is_pairs()) {
      backward_of_pairs(window, plane, of_window, out);
      continue;
    }
    std::fill(out, out + size, 0.0f);
    if (window.is_ordinary(plane)) {
      for (Index row = 0; row < window.out_height; ++row) {
        for (Index column = 0; column < window.out_width; ++column)
          out[window.argmax(plane, row, column)] += of_window[row * window.out_width + column];
      }
    } else {
      for (Index row = 0; row < window.out_height; ++row) {
        for (Index column = 0; column < window.out_width; ++column) {
          const Index at = window.argmax_in_any(plane, row, column);
          if (at >= 0) out[at] += of_window[row * window.out_width + column];
        }
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
