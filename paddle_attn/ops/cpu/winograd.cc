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
#include "products.h"

namespace paddle_attn {
namespace {

constexpr Index kPlaces = 16;  // in a transformed tile
// In a band: enough that the filters and the sums of their gradients are rarely read, and that the inputs and
// outputs of a band of few channels fit into the second level of the cache
constexpr Index kTiles = 128;

// One matrix [rows, columns] for each place of a tile, in memory of the caller. A gap separates them: at
// distances of a power of two they would evict each other from the cache.
struct Matrices {
  Index pitch, step;
  float* memory;

  static Index step_of(Index rows, Index columns) { return rows * pitch_of(columns) + 48; }
  static Index floats(Index rows, Index columns) { return kPlaces * step_of(rows, columns); }
  Matrices(Index rows, Index columns, float* memory)
      : pitch(pitch_of(columns)), step(step_of(rows, columns)), memory(memory) {}
  float* at(Index place) const { return memory + place * step; }
  float* end() const { return at(kPlaces); }
  Next after(Index place) const { return {at(place + 1), place + 1 < kPlaces ? step : 0}; }
};

// Bands of tiles
struct Tiling : Bands {
  Index height, width;
  // For each tile of max_run + 1 rows of tiles: 0 in the first or last column, else all bits
  std::vector<int32_t> not_first, not_last;

  Tiling(Index batch, Index height, Index width)
      : Bands(batch, ceil_divide(height, 2), ceil_divide(width, 2), kTiles / ceil_divide(width, 2)),
        height(height),
        width(width) {
    not_first.assign(of_columns(), -1);
    not_last = not_first;
    for (Index q = 0; q <= max_run * columns; q += columns) not_first[q] = not_last[q + columns - 1] = 0;
  }

  // The lines of pixels of a run of rows: every second one, then the others; with room for vectors around
  Index of_lines() const { return 2 * (max_run + 1) * columns + 4 * kLanes; }
  Index of_columns() const { return (max_run + 1) * columns + kLanes; }
  Index work_floats() const { return 2 * of_lines() + 8 * of_columns(); }
};

inline Vector masked(const Vector& v, const int32_t* mask) {
  Lanes bits, kept;
  std::memcpy(&bits, &v, sizeof bits);
  std::memcpy(&kept, mask, sizeof kept);
  bits &= kept;
  Vector found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
}

inline void save(const Vector& v, float* to) { std::memcpy(to, &v, sizeof v); }

// Copies the rows y, y + 2, ... of pixels to lines of 2 t.columns, with zeros where the plane has no row.
inline void copy_lines(const float* plane, const Tiling& t, Index y, Index number, float* to) {
  for (Index i = 0; i < number; ++i, y += 2, to += 2 * t.columns) {
    if (y >= 0 && y < t.height) {
      std::copy(plane + y * t.width, plane + (y + 1) * t.width, to);
    } else {
      std::fill(to, to + t.width, 0.0f);
    }
  }
}

// B' x B of every tile in a band; out is [channels, tiles] for each place, work holds t.work_floats().
// Tiles are counted through all rows of a run. A last vector that exceeds its run is overwritten by the next.
void transform_inputs(const float* x, Index channels, const Tiling& t, Index band, float* work,
                      const Matrices& out) {
  const Index of_lines = t.of_lines(), of_columns = t.of_columns(), step = out.step;
  float *lines = work + kLanes, *mixed = work + 2 * of_lines;
  std::fill(work, mixed, 0.0f);
  for (Index c = 0; c < channels; ++c) {
    t.for_each_run(band, [&](Index image, Index row, Index rows, Index tile) {
      const float* plane = x + (image * channels + c) * t.height * t.width;
      for (Index odd = 0; odd < 2; ++odd) {  // the columns: of the pixels 2 r - 1 + odd for each row r
        float *line = lines + odd * of_lines, *m = mixed + 4 * odd * of_columns;
        copy_lines(plane, t, 2 * row - 1 + odd, rows + 1, line);
        for (Index q = 0; q < (rows + 1) * t.columns; q += kLanes) {
          const float* from = line + 2 * q;
          const Vector p0 = load(from), p1 = load(from + kLanes);
          const Vector b = every_second<0>(p0, p1), e = every_second<1>(p0, p1);
          const Vector before = every_second<0>(load(from - 1), load(from - 1 + kLanes));
          const Vector after = every_second<0>(load(from + 2), load(from + 2 + kLanes));
          const Vector a = masked(before, &t.not_first[q]), f = masked(after, &t.not_last[q]);
          save(a - e, m + q), save(b + e, m + q + of_columns);
          save(e - b, m + q + 2 * of_columns), save(b - f, m + q + 3 * of_columns);
        }
      }
      float* v = out.at(0) + c * out.pitch + tile;
      for (Index q = 0; q < rows * t.columns; q += kLanes) {
        for (Index j = 0; j < 4; ++j) {  // the rows
          const float *even = mixed + j * of_columns + q, *odd = even + 4 * of_columns;
          const Vector a = load(even), b = load(odd), e = load(even + t.columns), f = load(odd + t.columns);
          float* to = v + j * step + q;
          save(a - e, to), save(b + e, to + 4 * step);
          save(e - b, to + 8 * step), save(b - f, to + 12 * step);
        }
      }
    });
  }
}

// A' m A of every tile in a band, plus the bias unless it is null; in is [channels, tiles] for each place
void transform_outputs(const Matrices& in, const float* bias, Index channels, const Tiling& t, Index band,
                       float* work, float* y) {
  const Index step = in.step, of_lines = t.of_lines();
  for (Index c = 0; c < channels; ++c) {
    const float shift = bias ? bias[c] : 0.0f;
    t.for_each_run(band, [&](Index image, Index row, Index rows, Index tile) {
      const float* m = in.at(0) + c * in.pitch + tile;
      for (Index q = 0; q < rows * t.columns; q += kLanes) {
        Vector upper[4], lower[4];
#pragma GCC unroll 4
        for (Index j = 0; j < 4; ++j) {  // the rows 0 + 1 + 2 of the tile, and 1 - 2 - 3
          const float* p = m + q + j * step;
          const Vector b = load(p + 4 * step), e = load(p + 8 * step);
          upper[j] = load(p) + b + e, lower[j] = b - e - load(p + 12 * step);
        }
        const Vector a = upper[0] + upper[1] + upper[2] + shift, b = upper[1] - upper[2] - upper[3] + shift;
        const Vector e = lower[0] + lower[1] + lower[2] + shift, f = lower[1] - lower[2] - lower[3] + shift;
        float* to = work + 2 * q;
        save(interleave<0>(a, b), to), save(interleave<1>(a, b), to + kLanes);
        save(interleave<0>(e, f), to + of_lines), save(interleave<1>(e, f), to + of_lines + kLanes);
      }
      float* plane = y + (image * channels + c) * t.height * t.width;
      for (Index at = 2 * row; at < std::min(2 * (row + rows), t.height); ++at) {
        const float* line = work + at % 2 * of_lines + (at / 2 - row) * 2 * t.columns;
        std::copy(line, line + t.width, plane + at * t.width);
      }
    });
  }
}

// A dy A' of every tile in a band; out is [channels, tiles] for each place
void transform_gradients(const float* dy, Index channels, const Tiling& t, Index band, float* work,
                         const Matrices& out) {
  const Index step = out.step, of_lines = t.of_lines();
  std::fill(work, work + 2 * of_lines, 0.0f);
  for (Index c = 0; c < channels; ++c) {
    t.for_each_run(band, [&](Index image, Index row, Index rows, Index tile) {
      const float* plane = dy + (image * channels + c) * t.height * t.width;
      for (Index odd = 0; odd < 2; ++odd) copy_lines(plane, t, 2 * row + odd, rows, work + odd * of_lines);
      float* v = out.at(0) + c * out.pitch + tile;
      for (Index q = 0; q < rows * t.columns; q += kLanes) {
        const float *u = work + 2 * q, *l = u + of_lines;
        const Vector u0 = load(u), u1 = load(u + kLanes), l0 = load(l), l1 = load(l + kLanes);
        const Vector left[2] = {every_second<0>(u0, u1), every_second<0>(l0, l1)};
        const Vector right[2] = {every_second<1>(u0, u1), every_second<1>(l0, l1)};
        const auto save_row = [&](const Vector& a, const Vector& b, float* to) {
          save(a, to), save(a + b, to + step), save(a - b, to + 2 * step), save(-b, to + 3 * step);
        };
        save_row(left[0], right[0], v + q);
        save_row(left[0] + left[1], right[0] + right[1], v + q + 4 * step);
        save_row(left[0] - left[1], right[0] - right[1], v + q + 8 * step);
        save_row(-left[1], -right[1], v + q + 12 * step);
      }
    });
  }
}

// G w G' of every filter: w [K, C, 3, 3] -> out, [K, C] for each place
void transform_filters(const float* w, Index filters, Index channels, const Matrices& out) {
#pragma omp parallel for
  for (Index k = 0; k < filters; ++k) {
    float* row = out.at(0) + k * out.pitch;
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
  const auto of_place = [&](Index place) {
    return filters.at(rotated ? 4 * swapped(place / 4) + swapped(place % 4) : place);
  };
  const Index tiles = t.max_places();
  const Scratch memory(Matrices::floats(from, tiles) + Matrices::floats(to, tiles) + t.work_floats());
#pragma omp parallel
  {
    const Matrices inputs(from, tiles, memory.of_thread());
    const Matrices products(to, tiles, inputs.end());
    float* work = products.end();
#pragma omp for schedule(static)
    for (Index band = 0; band < t.bands; ++band) {
      transform_inputs(x, from, t, band, work, inputs);
      for (Index place = 0; place < kPlaces; ++place) {
        const Matrix factors{of_place(place), rotated ? 1 : filters.pitch, rotated ? filters.pitch : 1};
        const Next next{of_place((place + 1) % kPlaces), filters.step};
        multiply(factors, to, from, inputs.at(place), inputs.pitch, t.places(band), false, products.at(place),
                 products.pitch, next, inputs.after(place));
      }
      transform_outputs(products, bias, to, t, band, work, y);
    }
  }
}

// G' u G of every filter -> dw [K, C, 3, 3]; u is [K, C] for each place, the sum of those of the threads
void transform_back(const std::vector<Matrices>& sums, Index filters, Index channels, float* dw) {
#pragma omp parallel for
  for (Index k = 0; k < filters; ++k) {
    for (Index c = 0; c < channels; ++c) {
      float u[kPlaces] = {}, columns[12];
      for (const Matrices& sum : sums) {
        for (Index place = 0; place < kPlaces; ++place) u[place] += sum.at(place)[k * sum.pitch + c];
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
  const Index tiles = t.max_places(), padded = ceil_divide(channels, kLanes) * kLanes;
  const Index pitch = pitch_of(channels);  // of the inputs of one place, [tiles, channels]
  const Scratch memory(Matrices::floats(padded, tiles) + Matrices::floats(filters, tiles) +
                       pitch * (tiles + kLanes) + t.work_floats());
  const Index threads = omp_get_max_threads();
  const Scratch totals(Matrices::floats(filters, channels), threads);
  std::vector<char> used(threads);  // by threads that processed a band
#pragma omp parallel
  {
    const Matrices inputs(padded, tiles, memory.of_thread()), gradients(filters, tiles, inputs.end());
    float *transposed = gradients.end(), *work = transposed + pitch * (tiles + kLanes);
    const Matrices sum(filters, channels, totals.of_thread());
    char& is_used = used[omp_get_thread_num()];
#pragma omp for schedule(static)
    for (Index band = 0; band < t.bands; ++band) {
      transform_inputs(x, channels, t, band, work, inputs);
      transform_gradients(dy, filters, t, band, work, gradients);
      for (Index place = 0; place < kPlaces; ++place) {
        transpose(inputs.at(place), inputs.pitch, channels, t.places(band), transposed, pitch);
        multiply({gradients.at(place), gradients.pitch, 1}, filters, t.places(band), transposed, pitch,
                 channels, is_used, sum.at(place), sum.pitch, inputs.after(place), gradients.after(place));
      }
      is_used = true;
    }
  }
  std::vector<Matrices> sums;  // added in the order of the threads
  for (Index thread = 0; thread < threads; ++thread) {
    if (used[thread]) sums.emplace_back(filters, channels, totals.part(thread));
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
  const Tiling tiling(of_x[0], of_x[2], of_x[3]);
  const Scratch memory(Matrices::floats(of_w[0], of_w[1]), 1);
  const Matrices filters(of_w[0], of_w[1], memory.part(0));
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
  const Tiling tiling(of_x[0], of_x[2], of_x[3]);
  const Scratch memory(Matrices::floats(of_w[0], of_w[1]), 1);
  const Matrices filters(of_w[0], of_w[1], memory.part(0));
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
