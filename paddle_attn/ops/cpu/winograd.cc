// The 3x3 convolution with stride 1 and padding 1:
//   paddle_attn_conv3x3(x [N, C, H, W], weight [K, C, 3, 3]) -> y [N, K, H, W]
//   paddle_attn_conv3x3_bias(x [N, C, H, W], weight [K, C, 3, 3], bias [K]) -> y [N, K, H, W]
//
// It uses Winograd's F(2x2, 3x3), which needs 16 multiplications instead of 36.
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arxiv.org/abs/1509.09308
//
// The map is divided into tiles of 2x2 outputs, each computed from 4x4 inputs. With B, G and A of the paper,
// and one matrix product for each of the 16 places of a tile:
//   forward            y  = A' [ (G w G') . (B' x B) ] A      summed over input channels
//   gradient of x      the same of dy, with the channels of w swapped and w rotated by 180 degrees, which
//                      swaps the places 0 and 3 of G w G'
//   gradient of w      dw = G' [ (A dy A') . (B' x B) ] G     summed over tiles
// A band is a number of rows of tiles whose matrices fit into the cache. Each thread processes whole bands.
//
// NaN and Inf reach the outputs that they reach in Paddle's convolution. But a tile subtracts its inputs:
// where Paddle gives Inf, this form may give NaN. A weight that is not finite also makes NaN of the zeros of
// the padding. To give Paddle's Inf would need another pass over every output.
#include "common.h"

extern "C" void cblas_sgemm(int layout, int trans_a, int trans_b, int m, int n, int k, float alpha,
                            const float* a, int lda, const float* b, int ldb, float beta, float* c,
                            int ldc);  // from MKL, which Paddle ships

namespace paddle_attn {
namespace {

constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
constexpr Index kPlaces = 16;           // in a transformed tile
// The floats in the inputs and outputs of a band together. For few channels a band that fits into the second
// level of the cache is fastest, for many the matrices must be wide.
constexpr Index kBandFloats = 1 << 20, kSmallBandFloats = 1 << 18, kFewChannels = 128;

// Sixteen matrices of `size` elements in memory of the caller. A gap separates them: at distances of a power
// of two they would evict each other from the cache.
struct Matrices {
  Index step;
  float* memory;

  static Index floats(Index size) { return kPlaces * (size + 48); }
  Matrices(Index size, float* memory) : step(size + 48), memory(memory) {}
  float* at(Index place) const { return memory + place * step; }
};

struct Tiling {
  Index batch, height, width;
  Index rows, columns;     // of tiles in one image
  Index band_rows, bands;  // a band is band_rows rows of tiles, counted through all images

  Tiling(Index batch, Index height, Index width, Index channels)
      : batch(batch), height(height), width(width) {
    rows = (height + 1) / 2;
    columns = (width + 1) / 2;
    const Index all = batch * rows, threads = omp_get_max_threads();
    const Index floats = channels <= kFewChannels ? kSmallBandFloats : kBandFloats;  // of x and y
    const Index fitting = std::max<Index>(1, floats / (kPlaces * channels * columns));
    bands = std::max((all + fitting - 1) / fitting, std::min(all, threads));
    bands = std::min(all, (bands + threads - 1) / threads * threads);  // the same number for every thread
    band_rows = (all + bands - 1) / bands;
    bands = (all + band_rows - 1) / band_rows;
  }

  Index first(Index band) const { return band * band_rows; }
  Index last(Index band) const { return std::min(batch * rows, first(band) + band_rows); }
  Index max_tiles() const { return band_rows * columns; }
  Index line() const { return 2 * columns + 2; }  // pixels of a row of tiles, padded
};

// B' x B of every tile in a band; out is 16 matrices [channels, tiles], lines holds 8 t.line() floats,
// which overlap nothing else (__restrict saves a tenth of the time of small maps)
void transform_inputs(const float* x, Index channels, const Tiling& t, Index band, float* __restrict lines,
                      const Matrices& out) {
  const Index tiles = (t.last(band) - t.first(band)) * t.columns, padded = t.line(), step = out.step;
  float* __restrict mixed = lines + 4 * padded;
  for (Index c = 0; c < channels; ++c) {
    for (Index r = t.first(band); r < t.last(band); ++r) {
      const float* plane = x + ((r / t.rows) * channels + c) * t.height * t.width;
      for (Index i = 0; i < 4; ++i) {  // the four rows of pixels, padded with zeros
        const Index y = 2 * (r % t.rows) - 1 + i;
        float* line = lines + i * padded;
        std::fill(line, line + padded, 0.0f);
        if (y >= 0 && y < t.height) std::copy(plane + y * t.width, plane + (y + 1) * t.width, line + 1);
      }
      const float *d0 = lines, *d1 = d0 + padded, *d2 = d1 + padded, *d3 = d2 + padded;
      float *m0 = mixed, *m1 = m0 + padded, *m2 = m1 + padded, *m3 = m2 + padded;
#pragma omp simd
      for (Index i = 0; i < padded; ++i) {
        const float a = d0[i], b = d1[i], e = d2[i], f = d3[i];
        m0[i] = a - e, m1[i] = b + e, m2[i] = e - b, m3[i] = b - f;
      }
      for (Index i = 0; i < 4; ++i) {
        const float* m = mixed + i * padded;
        float* v = out.at(4 * i) + c * tiles + (r - t.first(band)) * t.columns;
#pragma omp simd
        for (Index j = 0; j < t.columns; ++j) {
          const float a = m[2 * j], b = m[2 * j + 1], e = m[2 * j + 2], f = m[2 * j + 3];
          v[j] = a - e, v[j + step] = b + e, v[j + 2 * step] = e - b, v[j + 3 * step] = b - f;
        }
      }
    }
  }
}

// A' m A of every tile in a band, plus the bias unless it is null; in is 16 matrices [channels, tiles],
// pixels holds t.line() floats
void transform_outputs(const Matrices& in, const float* bias, Index channels, const Tiling& t, Index band,
                       float* pixels, float* y) {
  const Index tiles = (t.last(band) - t.first(band)) * t.columns, step = in.step;
  for (Index c = 0; c < channels; ++c) {
    const float shift = bias ? bias[c] : 0.0f;
    for (Index r = t.first(band); r < t.last(band); ++r) {
      const float* m = in.at(0) + c * tiles + (r - t.first(band)) * t.columns;
      float* plane = y + ((r / t.rows) * channels + c) * t.height * t.width;
      for (Index half = 0; half < 2; ++half) {
        const Index at = 2 * (r % t.rows) + half;
        if (at >= t.height) break;
        // rows 0 + 1 + 2 of the tile give the upper row of pixels, 1 - 2 - 3 the lower one
        const float *p = m + (half ? 4 : 0) * step, *q = m + (half ? 8 : 4) * step,
                    *s = m + (half ? 12 : 8) * step;
        const float sign = half ? -1.0f : 1.0f;
#pragma omp simd
        for (Index j = 0; j < t.columns; ++j) {
          const float a = p[j] + sign * (q[j] + s[j]);
          const float b = p[j + step] + sign * (q[j + step] + s[j + step]);
          const float e = p[j + 2 * step] + sign * (q[j + 2 * step] + s[j + 2 * step]);
          const float f = p[j + 3 * step] + sign * (q[j + 3 * step] + s[j + 3 * step]);
          pixels[2 * j] = a + b + e + shift;
          pixels[2 * j + 1] = b - e - f + shift;
        }
        std::copy(pixels, pixels + t.width, plane + at * t.width);
      }
    }
  }
}

// A dy A' of every tile in a band; out is 16 matrices [channels, tiles], lines holds 2 t.line() floats
void transform_gradients(const float* dy, Index channels, const Tiling& t, Index band,
                         float* __restrict lines, const Matrices& out) {
  const Index tiles = (t.last(band) - t.first(band)) * t.columns, step = out.step;
  float *upper = lines, *lower = upper + t.line();
  std::fill(lines, lines + 2 * t.line(), 0.0f);
  for (Index c = 0; c < channels; ++c) {
    for (Index r = t.first(band); r < t.last(band); ++r) {
      const Index at = 2 * (r % t.rows);
      const float* plane = dy + ((r / t.rows) * channels + c) * t.height * t.width + at * t.width;
      std::copy(plane, plane + t.width, upper);
      if (at + 1 < t.height) {
        std::copy(plane + t.width, plane + 2 * t.width, lower);
      } else {
        std::fill(lower, lower + t.line(), 0.0f);
      }
      for (Index i = 0; i < 4; ++i) {  // rows u, u + l, u - l, -l
        const float by_upper = i < 3 ? 1.0f : 0.0f, by_lower = i == 0 ? 0.0f : i == 1 ? 1.0f : -1.0f;
        float* v = out.at(4 * i) + c * tiles + (r - t.first(band)) * t.columns;
#pragma omp simd
        for (Index j = 0; j < t.columns; ++j) {
          const float a = by_upper * upper[2 * j] + by_lower * lower[2 * j],
                      b = by_upper * upper[2 * j + 1] + by_lower * lower[2 * j + 1];
          v[j] = a, v[j + step] = a + b, v[j + 2 * step] = a - b, v[j + 3 * step] = -b;
        }
      }
    }
  }
}

// G w G' of every filter: w [K, C, 3, 3] -> out, 16 matrices [K, C]
void transform_filters(const float* w, Index filters, Index channels, const Matrices& out) {
#pragma omp parallel for
  for (Index k = 0; k < filters; ++k) {
    float* row = out.at(0) + k * channels;
#pragma omp simd
    for (Index c = 0; c < channels; ++c) {
      const float* g = w + (k * channels + c) * 9;
      float rows[12];
      for (Index j = 0; j < 3; ++j) {
        const float both = g[j] + g[6 + j];
        rows[j] = g[j], rows[3 + j] = 0.5f * (both + g[3 + j]), rows[6 + j] = 0.5f * (both - g[3 + j]),
        rows[9 + j] = g[6 + j];
      }
      for (Index i = 0; i < 4; ++i) {
        const float first = rows[3 * i], second = rows[3 * i + 1], third = rows[3 * i + 2];
        float* to = row + 4 * i * out.step + c;
        to[0] = first, to[out.step] = 0.5f * (first + third + second),
        to[2 * out.step] = 0.5f * (first + third - second), to[3 * out.step] = third;
      }
    }
  }
}

// x [N, from, H, W] -> y [N, to, H, W] with transformed filters [to, from], or, if `rotated`, with filters
// [from, to] rotated by 180 degrees
void convolve(const float* x, const Matrices& filters, bool rotated, const float* bias, Index from, Index to,
              const Tiling& t, float* y) {
  const auto swapped = [](Index i) { return i % 3 == 0 ? 3 - i : i; };
  const Index of_inputs = from * t.max_tiles(), of_products = to * t.max_tiles();
  const Scratch memory(Matrices::floats(of_inputs) + Matrices::floats(of_products) + 8 * t.line());
#pragma omp parallel
  {
    const Matrices inputs(of_inputs, memory.of_thread());
    const Matrices products(of_products, inputs.at(kPlaces));
    float* lines = products.at(kPlaces);
#pragma omp for schedule(static)
    for (Index band = 0; band < t.bands; ++band) {
      const Index tiles = (t.last(band) - t.first(band)) * t.columns;
      transform_inputs(x, from, t, band, lines, inputs);
      for (Index place = 0; place < kPlaces; ++place) {
        const Index of_filter = rotated ? 4 * swapped(place / 4) + swapped(place % 4) : place;
        cblas_sgemm(kRowMajor, rotated ? kTransposed : kPlain, kPlain, to, tiles, from, 1.0f,
                    filters.at(of_filter), rotated ? to : from, inputs.at(place), tiles, 0.0f,
                    products.at(place), tiles);
      }
      transform_outputs(products, bias, to, t, band, lines, y);
    }
  }
}

// G' u G of every filter -> dw [K, C, 3, 3]; u is 16 matrices [K, C], the sum of those of the threads
void transform_back(const std::vector<Matrices>& sums, Index filters, Index channels, float* dw) {
#pragma omp parallel for
  for (Index k = 0; k < filters; ++k) {
    for (Index c = 0; c < channels; ++c) {
      float u[kPlaces] = {}, columns[12];
      for (const Matrices& sum : sums) {
        for (Index place = 0; place < kPlaces; ++place) u[place] += sum.at(place)[k * channels + c];
      }
      for (Index j = 0; j < 4; ++j) {
        const float half = 0.5f * (u[4 + j] + u[8 + j]);
        columns[j] = u[j] + half, columns[4 + j] = 0.5f * (u[4 + j] - u[8 + j]),
        columns[8 + j] = half + u[12 + j];
      }
      float* to = dw + (k * channels + c) * 9;
      for (Index i = 0; i < 3; ++i) {
        const float *v = columns + 4 * i, half = 0.5f * (v[1] + v[2]);
        to[3 * i] = v[0] + half, to[3 * i + 1] = 0.5f * (v[1] - v[2]), to[3 * i + 2] = half + v[3];
      }
    }
  }
}

void gradient_of_filters(const float* x, const float* dy, Index filters, Index channels, const Tiling& t,
                         float* dw) {
  const Index of_inputs = channels * t.max_tiles(), of_gradients = filters * t.max_tiles();
  const Scratch memory(Matrices::floats(of_inputs) + Matrices::floats(of_gradients) + 8 * t.line());
  const Index threads = omp_get_max_threads();
  const Scratch totals(Matrices::floats(filters * channels), threads);
  std::vector<char> used(threads);  // by threads that processed a band
#pragma omp parallel
  {
    const Matrices inputs(of_inputs, memory.of_thread());
    const Matrices gradients(of_gradients, inputs.at(kPlaces));
    float* lines = gradients.at(kPlaces);
    const Matrices sum(filters * channels, totals.of_thread());
    char& is_used = used[omp_get_thread_num()];
#pragma omp for schedule(static)
    for (Index band = 0; band < t.bands; ++band) {
      const Index tiles = (t.last(band) - t.first(band)) * t.columns;
      const float keep = is_used ? 1.0f : 0.0f;
      is_used = true;
      transform_inputs(x, channels, t, band, lines, inputs);
      transform_gradients(dy, filters, t, band, lines, gradients);
      for (Index place = 0; place < kPlaces; ++place) {
        cblas_sgemm(kRowMajor, kPlain, kTransposed, filters, channels, tiles, 1.0f, gradients.at(place),
                    tiles, inputs.at(place), tiles, keep, sum.at(place), channels);
      }
    }
  }
  std::vector<Matrices> sums;  // added in the order of the threads
  for (Index thread = 0; thread < threads; ++thread) {
    if (used[thread]) sums.emplace_back(filters * channels, totals.part(thread));
  }
  transform_back(sums, filters, channels, dw);
}

void expect_inputs(const Tensor& x, const Tensor& weight) {
  expect_map(x);
  const Shape found = weight.shape();
  expect(found.size() == 4 && found[0] > 0, "a weight [K, C, 3, 3]", found);
  expect_tensor(weight, {found[0], x.shape()[1], 3, 3}, "a weight");
}

Tensor convolution(const Tensor& x, const Tensor& weight, const float* bias) {
  expect_inputs(x, weight);
  const Shape of_x = x.shape(), of_w = weight.shape();
  Tensor y = paddle::empty({of_x[0], of_w[0], of_x[2], of_x[3]}, x.dtype(), x.place());
  const Tiling tiling(of_x[0], of_x[2], of_x[3], of_w[0] + of_w[1]);
  const Scratch memory(Matrices::floats(of_w[0] * of_w[1]), 1);
  const Matrices filters(of_w[0] * of_w[1], memory.part(0));
  transform_filters(weight.data<float>(), of_w[0], of_w[1], filters);
  convolve(x.data<float>(), filters, false, bias, of_w[1], of_w[0], tiling, y.data<float>());
  return y;
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight) {
  return {convolution(x, weight, nullptr)};
}

std::vector<Tensor> forward_with_bias(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  expect_inputs(x, weight);
  expect_tensor(bias, {weight.shape()[0]}, "a bias");
  return {convolution(x, weight, bias.data<float>())};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& grad) {
  expect_inputs(x, weight);
  const Shape of_x = x.shape(), of_w = weight.shape();
  expect_gradient(grad, {of_x[0], of_w[0], of_x[2], of_x[3]});
  Tensor dx = paddle::empty_like(x), dweight = paddle::empty_like(weight);
  const Tiling tiling(of_x[0], of_x[2], of_x[3], of_w[0] + of_w[1]);
  const Scratch memory(Matrices::floats(of_w[0] * of_w[1]), 1);
  const Matrices filters(of_w[0] * of_w[1], memory.part(0));
  transform_filters(weight.data<float>(), of_w[0], of_w[1], filters);
  convolve(grad.data<float>(), filters, true, nullptr, of_w[0], of_w[1], tiling, dx.data<float>());
  gradient_of_filters(x.data<float>(), grad.data<float>(), of_w[0], of_w[1], tiling, dweight.data<float>());
  return {dx, dweight};
}

std::vector<Tensor> backward_with_bias(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                       const Tensor& grad) {
  std::vector<Tensor> gradients = backward(x, weight, grad);
  expect_tensor(bias, {weight.shape()[0]}, "a bias");
  Tensor dbias = paddle::empty_like(bias);
  const Index filters = weight.shape()[0], size = x.shape()[2] * x.shape()[3];
  const float* g = grad.data<float>();
  float* to = dbias.data<float>();
#pragma omp parallel for
  for (Index k = 0; k < filters; ++k) {
    float total = 0.0f;
    for (Index n = 0; n < x.shape()[0]; ++n) total += sum(g + (n * filters + k) * size, size);
    to[k] = total;
  }
  gradients.push_back(dbias);
  return gradients;
}

std::vector<Shape> shape_of_y(const Shape& x, const Shape& weight) {
  expect(x.size() == 4, "a map [N, C, H, W]", x);
  expect(weight.size() == 4, "a weight [K, C, 3, 3]", weight);
  return {{x[0], weight[0], x[2], x[3]}};
}

std::vector<Shape> shape_of_y_with_bias(const Shape& x, const Shape& weight, const Shape&) {
  return shape_of_y(x, weight);
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_conv3x3, forward, backward, PD_INFER_SHAPE(paddle_attn::shape_of_y),
               {"X", "Weight"});
FUSED_OPERATOR(paddle_attn_conv3x3_bias, forward_with_bias, backward_with_bias,
               PD_INFER_SHAPE(paddle_attn::shape_of_y_with_bias), {"X", "Weight", "Bias"});
