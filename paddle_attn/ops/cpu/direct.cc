// The dense convolution with an odd kernel k, padding (k - 1) / 2 and stride 1 or 2:
//   paddle_attn_conv_direct(x [N, C, H, W], weight [K, C, k, k], stride, needs_dx) -> y [N, K, H', W']
//   k is 1, 3, 5 or 7, H' = ceil(H / stride), W' likewise; without needs_dx the gradient of x is zero
//
// It computes the sums as they are written, in registers. A vector holds adjoining places of a plane, counted
// along the whole plane, so neither x nor y changes its layout. For this, each plane is copied once for each
// column of the kernel, shifted by that column, with zeros where the kernel leaves the map; with stride 2 a
// copy holds every second row and column. Then every tap of the kernel is one distance in memory, the same
// for all places q:
//   forward        y[k, q]             = sum over c and taps of w[k, c, tap] x[c, stride q + tap - padding]
//   gradient of w  dw[k, c, tap]       = sum over images and q of dy[k, q] x[c, stride q + tap - padding]
//   gradient of x  dx[c, stride q + r] = sum over k and taps of w[k, c, tap] dy[k, q + e]
// The last is for each remainder r of the place, with the taps whose e = (r + padding - tap) / stride is an
// integer.
// A strip is a number of rows of the output whose copies fit into the cache. Each thread processes whole
// strips.
//
// NaN and Inf reach the outputs that they reach in Paddle's convolution. In the gradient of x, the zeros
// around the map also make NaN of a weight that is not finite.
#include "products.h"

namespace paddle_attn {
namespace {

constexpr Index kStripFloats = 96 << 10;  // in the copies of a strip

// to[q, j] = plane[row + step q, column + step j], zero outside the plane; [rows, columns] of them
void shifted_copy(const float* plane, Index height, Index width, Index row, Index column, Index step,
                  float* to, Index rows, Index columns) {
  const Index first = row < 0 ? ceil_divide(-row, step) : 0;
  const Index last = std::clamp(ceil_divide(height - row, step), first, rows);
  if (first >= rows) {
    std::fill(to, to + rows * columns, 0.0f);
    return;
  }
  std::fill(to, to + first * columns, 0.0f);
  std::fill(to + last * columns, to + rows * columns, 0.0f);
  to += first * columns;
  const float* from = plane + (row + step * first) * width;
  if (step == 1) {  // all rows at once, then the zeros at their ends
    const Index size = (last - first) * columns, outside = std::min(std::abs(column), columns);
    if (size > std::abs(column)) {
      std::copy(from + std::max<Index>(column, 0), from + size + std::min<Index>(column, 0),
                to - std::min<Index>(column, 0));
    }
    for (Index q = column < 0 ? 0 : columns - outside; q < size; q += columns)
      std::fill(to + q, to + q + outside, 0.0f);
    return;
  }
  const Index left = column < 0 ? std::min(ceil_divide(-column, step), columns) : 0;
  const Index right = std::clamp(ceil_divide(width - column, step), left, columns);
  for (Index q = first; q < last; ++q, to += columns, from += step * width) {
    std::fill(to, to + left, 0.0f);
    const float* start = from + column;
#pragma omp simd
    for (Index j = left; j < right; ++j) to[j] = start[2 * j];
    std::fill(to + right, to + columns, 0.0f);
  }
}

// The copies of a strip of one image, and where each tap finds its places in them.
struct Copies {
  struct Copy {
    Index row, column;  // of the plane, for the place 0 of the strip that starts at row 0
  };
  Index step;                // between rows and columns of the plane
  Index columns;             // of a strip
  Index halo;                // rows that a copy has besides those of the strip
  Index pitch;               // floats of a copy
  std::vector<Copy> copies;  // of each channel

  Index parities() const { return std::min(step, halo + 1); }
  Index channel_floats() const { return static_cast<Index>(copies.size()) * pitch; }

  // Copies the channels of one image for the strip [first, first + rows).
  void make(const float* image, Index channels, Index height, Index width, Index first, Index rows,
            float* to) const {
    for (Index c = 0; c < channels; ++c) {
      for (const Copy& copy : copies) {
        shifted_copy(image + c * height * width, height, width, step * first + copy.row, copy.column, step,
                     to, rows + halo, columns);
        to += pitch;
      }
    }
  }
};

struct Geometry {
  Index batch, channels, height, width, filters, side, stride, padding;
  Index rows, columns;       // of the output
  Index strip_rows, strips;  // of each image

  Geometry(const Shape& x, const Shape& weight, Index stride)
      : batch(x[0]), channels(x[1]), height(x[2]), width(x[3]), filters(weight[0]), side(weight[2]),
        stride(stride), padding((side - 1) / 2), rows(ceil_divide(height, stride)),
        columns(ceil_divide(width, stride)) {
    const Index wide = std::max(channels * side * std::min(stride, side), filters * side) * columns;
    const Index fitting = std::max<Index>(kStripFloats / wide - side + 1, 4);
    strips = std::max(ceil_divide(rows, fitting), ceil_divide(omp_get_max_threads(), batch));
    strip_rows = ceil_divide(rows, std::min(strips, rows));
    strips = ceil_divide(rows, strip_rows);
  }

  Index size() const { return height * width; }
  Index places() const { return rows * columns; }
  Index taps() const { return side * side; }
  Index first_row(Index strip) const { return strip * strip_rows; }
  Index rows_of(Index strip) const { return std::min(strip_rows, rows - first_row(strip)); }

  Copies of_x() const {
    const Index halo = (side - 1) / stride, parities = std::min(stride, side);
    Copies found{stride, columns, halo, pitch_of((strip_rows + halo) * columns), {}};
    for (Index column = 0; column < side; ++column) {
      for (Index parity = 0; parity < parities; ++parity)
        found.copies.push_back({parity - padding, column - padding});
    }
    return found;
  }

  // Column after column: the taps of one column read the same copy.
  std::vector<Tap> taps_of_x(const Copies& copies) const {
    std::vector<Tap> taps;
    const Index parities = std::min(stride, side);
    for (Index column = 0; column < side; ++column) {
      for (Index row = 0; row < side; ++row) {
        const Index copy = column * parities + row % stride;
        taps.push_back({copy * copies.pitch + row / stride * columns, row * side + column});
      }
    }
    return taps;
  }

  Index lowest() const { return -(padding / stride); }  // of e
  Index highest() const { return ceil_divide(padding, stride); }

  Copies of_gradient() const {
    const Index halo = highest() - lowest();
    Copies found{1, columns, halo, pitch_of((strip_rows + halo) * columns), {}};
    for (Index e = lowest(); e <= highest(); ++e) found.copies.push_back({lowest(), e});
    return found;
  }

  std::vector<Tap> taps_of_gradient(const Copies& copies, Index row_rest, Index column_rest) const {
    std::vector<Tap> taps;
    for (Index column = 0; column < side; ++column) {
      const Index right = column_rest + padding - column;
      if (right % stride) continue;
      for (Index row = 0; row < side; ++row) {
        const Index down = row_rest + padding - row;
        if (down % stride) continue;
        taps.push_back({(right / stride - lowest()) * copies.pitch + (down / stride - lowest()) * columns,
                        row * side + column});
      }
    }
    return taps;
  }
};

void convolve(const float* x, const float* w, const Geometry& g, float* y) {
  const Copies copies = g.of_x();
  const std::vector<Tap> taps = g.taps_of_x(copies);
  const Scratch weights(packed_floats(g.filters, g.channels, g.taps()), 1);
  const Scratch memory(g.channels * copies.channel_floats());
  pack(w, g.filters, g.channels, g.channels * g.taps(), g.taps(), taps, weights.part(0));
#pragma omp parallel for schedule(static)
  for (Index unit = 0; unit < g.batch * g.strips; ++unit) {
    const Index n = unit / g.strips, strip = unit % g.strips, rows = g.rows_of(strip);
    float* of_strip = memory.of_thread();
    copies.make(x + n * g.channels * g.size(), g.channels, g.height, g.width, g.first_row(strip), rows,
                of_strip);
    sum_places(of_strip, g.channels, copies.channel_floats(), taps, weights.part(0), rows * g.columns,
               y + n * g.filters * g.places() + g.first_row(strip) * g.columns, g.filters, g.places());
  }
}

void gradient_of_x(const float* dy, const float* w, const Geometry& g, float* dx) {
  const Copies copies = g.of_gradient();
  const Index rests = g.stride * g.stride, most = packed_floats(g.channels, g.filters, g.taps());
  const Scratch weights(most, rests);
  std::vector<std::vector<Tap>> taps;  // for each remainder of row and column
  for (Index rest = 0; rest < rests; ++rest) {
    taps.push_back(g.taps_of_gradient(copies, rest / g.stride, rest % g.stride));
    pack(w, g.channels, g.filters, g.taps(), g.channels * g.taps(), taps[rest], weights.part(rest));
  }
  const Index strip_places = g.strip_rows * g.columns, of_copies = g.filters * copies.channel_floats();
  const Scratch memory(of_copies + (g.stride == 1 ? 0 : rests * g.channels * strip_places));
#pragma omp parallel for schedule(static)
  for (Index unit = 0; unit < g.batch * g.strips; ++unit) {
    const Index n = unit / g.strips, strip = unit % g.strips;
    const Index rows = g.rows_of(strip), first = g.first_row(strip), places = rows * g.columns;
    float *of_strip = memory.of_thread(), *results = of_strip + of_copies;
    float* image = dx + n * g.channels * g.size();
    copies.make(dy + n * g.filters * g.places(), g.filters, g.rows, g.columns, first, rows, of_strip);
    for (Index rest = 0; rest < rests; ++rest) {
      const bool direct = g.stride == 1;
      sum_places(of_strip, g.filters, copies.channel_floats(), taps[rest], weights.part(rest), places,
                 direct ? image + first * g.columns : results + rest * g.channels * strip_places, g.channels,
                 direct ? g.size() : strip_places);
    }
    if (g.stride == 1) continue;
    for (Index c = 0; c < g.channels; ++c) {
      for (Index y = 2 * first; y < std::min(2 * (first + rows), g.height); ++y) {
        const float* even =
            results + (y % 2 * 2 * g.channels + c) * strip_places + (y / 2 - first) * g.columns;
        const float* odd = even + g.channels * strip_places;
        float* to = image + (c * g.height + y) * g.width;
#pragma omp simd
        for (Index j = 0; j < g.width / 2; ++j) to[2 * j] = even[j], to[2 * j + 1] = odd[j];
        if (g.width % 2) to[g.width - 1] = even[g.width / 2];
      }
    }
  }
}

void gradient_of_weight(const float* x, const float* dy, const Geometry& g, float* dw) {
  const Copies copies = g.of_x();
  // The copies of a strip are transposed: [places, columns], first those for the kernel's even rows of all
  // channels, then those for its odd rows; all rows with stride 1. A kernel's row is then a distance.
  const Index parities = copies.parities(), side = g.channels * g.side, pitch = pitch_of(parities * side);
  const Index of_x = g.channels * copies.channel_floats() + 2 * kLanes * copies.pitch;
  const Index of_row = g.filters * pitch;
  const Index threads = omp_get_max_threads();
  const Scratch memory(of_x + copies.pitch * pitch), totals((copies.halo + 1) * of_row, threads);
  std::fill(totals.part(0), totals.part(threads), 0.0f);
#pragma omp parallel
  {
    float *of_strip = memory.of_thread(), *transposed = of_strip + of_x, *total = totals.of_thread();
#pragma omp for schedule(static)
    for (Index unit = 0; unit < g.batch * g.strips; ++unit) {
      const Index n = unit / g.strips, strip = unit % g.strips, rows = g.rows_of(strip);
      copies.make(x + n * g.channels * g.size(), g.channels, g.height, g.width, g.first_row(strip), rows,
                  of_strip);
      for (Index parity = 0; parity < parities; ++parity) {
        transpose(of_strip + parity * copies.pitch, parities * copies.pitch, side,
                  (rows + copies.halo) * g.columns, transposed + parity * side, pitch);
      }
      const Matrix gradient{dy + n * g.filters * g.places() + g.first_row(strip) * g.columns, g.places(), 1};
      for (Index row = 0; row <= copies.halo; ++row) {
        const Index used = std::min(parities, g.side - g.stride * row) * side;
        multiply(gradient, g.filters, rows * g.columns, transposed + row * g.columns * pitch, pitch, used,
                 true, total + row * of_row, pitch);
      }
    }
  }
#pragma omp parallel for
  for (Index k = 0; k < g.filters; ++k) {
    for (Index c = 0; c < g.channels; ++c) {
      for (Index tap = 0; tap < g.taps(); ++tap) {
        const Index row = tap / g.side, at = row / g.stride * of_row + k * pitch +
                                             (row % g.stride * g.channels + c) * g.side + tap % g.side;
        float sum = 0.0f;
        for (Index thread = 0; thread < threads; ++thread) sum += totals.part(thread)[at];
        dw[(k * g.channels + c) * g.taps() + tap] = sum;
      }
    }
  }
}

Shape output_shape(const Shape& x, const Shape& weight, Index stride) {
  return {x[0], weight[0], ceil_divide(x[2], stride), ceil_divide(x[3], stride)};
}

void expect_inputs(const Tensor& x, const Tensor& weight, int stride) {
  expect_map(x);
  const Shape found = weight.shape();
  expect(found.size() == 4 && found[0] > 0 && found[2] % 2 == 1 && found[2] <= 7,
         "a weight [K, C, k, k] with k = 1, 3, 5 or 7", found);
  expect_tensor(weight, {found[0], x.shape()[1], found[2], found[2]}, "a weight");
  expect(stride == 1 || stride == 2, "a stride of 1 or 2", {stride});
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, int stride, bool) {
  expect_inputs(x, weight, stride);
  Tensor y = paddle::empty(output_shape(x.shape(), weight.shape(), stride), x.dtype(), x.place());
  const Geometry geometry(x.shape(), weight.shape(), stride);
  convolve(x.data<float>(), weight.data<float>(), geometry, y.data<float>());
  return {y};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& grad, int stride,
                             bool needs_dx) {
  expect_inputs(x, weight, stride);
  expect_gradient(grad, output_shape(x.shape(), weight.shape(), stride));
  Tensor dx = paddle::empty_like(x), dweight = paddle::empty_like(weight);
  const Geometry geometry(x.shape(), weight.shape(), stride);
  if (needs_dx)
    gradient_of_x(grad.data<float>(), weight.data<float>(), geometry, dx.data<float>());
  else
    std::fill(dx.data<float>(), dx.data<float>() + dx.numel(), 0.0f);
  gradient_of_weight(x.data<float>(), grad.data<float>(), geometry, dweight.data<float>());
  return {dx, dweight};
}

std::vector<Shape> shape_of_y(const Shape& x, const Shape& weight, int stride, bool) {
  expect(x.size() == 4 && stride > 0, "a map [N, C, H, W] and a positive stride", x);
  expect(weight.size() == 4, "a weight [K, C, k, k]", weight);
  return {output_shape(x, weight, stride)};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_conv_direct, forward, backward, PD_INFER_SHAPE(paddle_attn::shape_of_y),
               {"X", "Weight"}, {"stride: int", "needs_dx: bool"});
