// The strip of a plane has a number for each row, then one for each column:
//   paddle_attn_strip_mean(x [N, C, H, W]) -> their means [N, C, H + W, 1]
//   paddle_attn_strip_max(x [N, C, H, W]) -> their maxima [N, C, H + W, 1]
//   paddle_attn_strip_scale(x [N, C, H, W], strip [N, C, H + W, 1], by_sum) -> x_hw g_hw [N, C, H, W],
//     g_hw = strip_h strip_(H + w), by sum strip_h + strip_(H + w)
#include "common.h"

namespace paddle_attn {
namespace {

Shape strip_of(const Shape& x) {
  expect(x.size() == 4, "a map [N, C, H, W]", x);
  return {x[0], x[1], x[2] + x[3], 1};
}

std::vector<Tensor> strip_mean(const Tensor& x) {
  expect_map(x);
  const Shape shape = x.shape();
  Tensor y = paddle::empty(strip_of(shape), x.dtype(), x.place());
  const Index planes = shape[0] * shape[1], height = shape[2], width = shape[3];
  const float* from = x.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    float *rows = to + p * (height + width), *columns = rows + height;
    std::fill(columns, columns + width, 0.0f);
    for (Index h = 0; h < height; ++h) {
      const float* row = from + (p * height + h) * width;
      rows[h] = sum_of(width, [=](Index i, auto count) {
        const Vector v = load(row + i, count);
        store(load(columns + i, count) + v, columns + i, count);
        return v;
      });
      rows[h] /= static_cast<float>(width);
    }
    for (Index w = 0; w < width; ++w) columns[w] /= static_cast<float>(height);
  }
  return {y};
}

std::vector<Tensor> strip_mean_backward(const Tensor& x, const Tensor& grad) {
  expect_map(x);
  const Shape shape = x.shape();
  expect_gradient(grad, strip_of(shape));
  Tensor dx = paddle::empty_like(x);
  const Index planes = shape[0] * shape[1], height = shape[2], width = shape[3];
  const float *g = grad.data<float>(), by_column = 1.0f / static_cast<float>(height);
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float *rows = g + p * (height + width), *columns = rows + height;
    for (Index h = 0; h < height; ++h) {
      const float by_row = rows[h] / static_cast<float>(width);
      float* out = to + (p * height + h) * width;
      for_each_vector(width, [=](Index i, auto count) {
        store(load(columns + i, count) * by_column + by_row, out + i, count);
      });
    }
  }
  return {dx};
}

std::vector<Tensor> strip_max(const Tensor& x) {
  expect_map(x);
  const Shape shape = x.shape();
  Tensor y = paddle::empty(strip_of(shape), x.dtype(), x.place());
  const Index planes = shape[0] * shape[1], height = shape[2], width = shape[3];
  const float* from = x.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    float *rows = to + p * (height + width), *columns = rows + height;
    std::fill(columns, columns + width, kLowest);
    for (Index h = 0; h < height; ++h) {
      const float* row = from + (p * height + h) * width;
      float most = kLowest;
      for (Index w = 0; w < width; ++w) most = larger(most, row[w]);
      rows[h] = most;
#pragma omp simd
      for (Index w = 0; w < width; ++w) columns[w] = larger(columns[w], row[w]);
    }
  }
  return {y};
}

// The first place of a row or column that holds its maximum receives the gradient; none if that is NaN.
std::vector<Tensor> strip_max_backward(const Tensor& x, const Tensor& y, const Tensor& grad) {
  expect_map(x);
  const Shape shape = x.shape();
  expect_tensor(y, strip_of(shape), "an output");
  expect_gradient(grad, y.shape());
  Tensor dx = paddle::empty_like(x);
  const Index planes = shape[0] * shape[1], height = shape[2], width = shape[3];
  const float *from = x.data<float>(), *maxima = y.data<float>(), *g = grad.data<float>();
  float* to = dx.data<float>();
  const Scratch scratch(width);
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float *rows = maxima + p * (height + width), *columns = rows + height;
    const float* by_row = g + p * (height + width);
    float* left = scratch.of_thread();  // the columns' gradients, 0 once a place has received one
    std::copy(by_row + height, by_row + height + width, left);
    for (Index h = 0; h < height; ++h) {
      const float* row = from + (p * height + h) * width;
      float* out = to + (p * height + h) * width;
#pragma omp simd
      for (Index w = 0; w < width; ++w) {
        const bool here = row[w] == columns[w];
        out[w] = here ? left[w] : 0.0f;
        left[w] = here ? 0.0f : left[w];
      }
      const float* most = std::find(row, row + width, rows[h]);
      if (most < row + width) out[most - row] += by_row[h];
    }
  }
  return {dx};
}

std::vector<Tensor> strip_scale(const Tensor& x, const Tensor& strip, bool by_sum) {
  expect_map(x);
  const Shape shape = x.shape();
  expect_tensor(strip, strip_of(shape), "a strip");
  Tensor y = paddle::empty_like(x);
  const Index planes = shape[0] * shape[1], height = shape[2], width = shape[3];
  const float *from = x.data<float>(), *a = strip.data<float>();
  float* to = y.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float *rows = a + p * (height + width), *columns = rows + height;
    for (Index h = 0; h < height; ++h) {
      const Index at = (p * height + h) * width;
      const float *row = from + at, by_row = rows[h];
      float* out = to + at;
      for_each_vector(width, [=](Index i, auto count) {
        const Vector by_column = load(columns + i, count);
        const Vector factor = by_sum ? by_column + by_row : by_column * by_row;
        store(load(row + i, count) * factor, out + i, count);
      });
    }
  }
  return {y};
}

std::vector<Tensor> strip_scale_backward(const Tensor& x, const Tensor& strip, const Tensor& grad,
                                         bool by_sum) {
  expect_map(x);
  const Shape shape = x.shape();
  expect_tensor(strip, strip_of(shape), "a strip");
  expect_gradient(grad, shape);
  Tensor dx = paddle::empty_like(x), dstrip = paddle::empty_like(strip);
  const Index planes = shape[0] * shape[1], height = shape[2], width = shape[3];
  const float *from = x.data<float>(), *a = strip.data<float>(), *g = grad.data<float>();
  float *to = dx.data<float>(), *da = dstrip.data<float>();
#pragma omp parallel for
  for (Index p = 0; p < planes; ++p) {
    const float *rows = a + p * (height + width), *columns = rows + height;
    float *drows = da + p * (height + width), *dcolumns = drows + height;
    std::fill(dcolumns, dcolumns + width, 0.0f);
    for (Index h = 0; h < height; ++h) {
      const Index at = (p * height + h) * width;
      const float *row = from + at, *gradient = g + at, by_row = rows[h];
      float* out = to + at;
      drows[h] = sum_of(width, [=](Index i, auto count) {
        const Vector v = load(gradient + i, count), by_column = load(columns + i, count);
        const Vector product = v * load(row + i, count);
        store(v * (by_sum ? by_column + by_row : by_column * by_row), out + i, count);
        store(load(dcolumns + i, count) + (by_sum ? product : product * by_row), dcolumns + i, count);
        return by_sum ? product : product * by_column;
      });
    }
  }
  return {dx, dstrip};
}

std::vector<Shape> shape_of_strip(const Shape& x) { return {strip_of(x)}; }

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_strip_mean, strip_mean, strip_mean_backward,
               PD_INFER_SHAPE(paddle_attn::shape_of_strip), {"X"});
FUSED_OPERATOR(paddle_attn_strip_max, strip_max, strip_max_backward,
               PD_INFER_SHAPE(paddle_attn::shape_of_strip), {"X"}, {}, {"Y"});
FUSED_OPERATOR(paddle_attn_strip_scale, strip_scale, strip_scale_backward, paddle_attn::shape_of_first_input,
               {"X", "Strip"}, {"by_sum: bool"});
