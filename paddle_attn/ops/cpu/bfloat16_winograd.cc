// The dense 3x3 convolution with stride 1 and padding 1, multiplied in bfloat16:
//   paddle_attn_bfloat16_conv3x3(x [N, C, H, W], weight [K, C, 3, 3]) -> y [N, K, H, W]
//   paddle_attn_bfloat16_conv3x3_bias(x, weight, bias [K]) -> y
//
// Winograd's F(2x2, 3x3) as in winograd.cc: tiles of 4x4 pixels become 16 numbers (places) for each channel,
// and 16 matrix products take the place of the sums. The transformed numbers are rounded to bfloat16, their
// products are summed in float32, and the transforms themselves are float32. A rounding error spreads over
// the 2x2 pixels of its tile; for random numbers it is about 1.6 times that of rounded factors.
//
// No sum depends on the number of threads: an output is summed by one thread, in the order of the channels,
// and the gradient of the weight in the order of the tiles.
#include "bfloat16.h"

namespace paddle_attn {
namespace {

constexpr Index kPlaces = 16;
constexpr Index kBandWords = 128 << 10;     // of the transformed inputs of a band: half of a cache of 1 MB
constexpr Index kBandTiles = 48;            // at least, so that the weights are read rarely enough
constexpr Index kChunkBytes = 16 << 20;     // of a chunk of tiles, in the gradient of the weight
constexpr Index kChunkTiles = 1024;         // at most: eleven rows of them fit into the first cache
typedef uint16_t Half;

struct Tiling {
  Index batch, height, width;
  Index rows, columns;  // of tiles in one image

  explicit Tiling(const Shape& x)
      : batch(x[0]), height(x[2]), width(x[3]), rows((x[2] + 1) / 2), columns((x[3] + 1) / 2) {}
  Index all_rows() const { return batch * rows; }
  Index size() const { return height * width; }
  // the first pixel of a row of tiles, counted through all images, of one of `channels` planes
  const float* plane(const float* x, Index channels, Index channel, Index row) const {
    return x + (row / rows * channels + channel) * size();
  }
};

// B' d B of kLanes tiles of a row, from tile j on: a vector for each place. It holds something past the last
// tile.
inline void transform_tiles(const float* plane, const Tiling& t, Index row, Index j, Vector* v) {
  const Index left = t.width - 2 * j + 1;  // pixels from the column before the tiles on
  const __mmask16 first = first_lanes(left) & (j ? 0xffff : 0xfffe), second = first_lanes(left - kLanes),
                  third = first_lanes(left - 2), fourth = first_lanes(left - 2 - kLanes);
  Vector d[4][4] = {};  // a row and a column of each tile
  for (Index i = 0; i < 4; ++i) {
    const Index y = 2 * row - 1 + i;
    if (y < 0 || y >= t.height) continue;
    const float* from = plane + y * t.width + 2 * j - 1;
    const Vector a = (Vector)_mm512_maskz_loadu_ps(first, from),
                 b = (Vector)_mm512_maskz_loadu_ps(second, from + kLanes),
                 c = (Vector)_mm512_maskz_loadu_ps(third, from + 2),
                 e = (Vector)_mm512_maskz_loadu_ps(fourth, from + 2 + kLanes);
    d[i][0] = permute(a, b, kEven), d[i][1] = permute(a, b, kOdd);
    d[i][2] = permute(c, e, kEven), d[i][3] = permute(c, e, kOdd);
  }
  Vector m[4][4];
  for (int k = 0; k < 4; ++k) {
    m[0][k] = d[0][k] - d[2][k], m[1][k] = d[1][k] + d[2][k];
    m[2][k] = d[2][k] - d[1][k], m[3][k] = d[1][k] - d[3][k];
  }
  for (int i = 0; i < 4; ++i) {
    v[4 * i] = m[i][0] - m[i][2], v[4 * i + 1] = m[i][1] + m[i][2];
    v[4 * i + 2] = m[i][2] - m[i][1], v[4 * i + 3] = m[i][1] - m[i][3];
  }
}

// The words of two channels at the tiles of the rows [first, last): out[place, tile]. Writes up to a vector
// past the last tile.
void transform_pair(const float* x, Index channels, Index channel, const Tiling& t, Index first, Index last,
                    Word* out, Index place_step) {
  const bool both = channel + 1 < channels;
  for (Index row = first; row < last; ++row, out += t.columns) {
    const float* plane = t.plane(x, channels, channel, row);
    for (Index j = 0; j < t.columns; j += kLanes) {
      Vector low[kPlaces], high[kPlaces] = {};
      transform_tiles(plane, t, row % t.rows, j, low);
      if (both) transform_tiles(plane + t.size(), t, row % t.rows, j, high);
      for (Index place = 0; place < kPlaces; ++place) {
        const Words words = zip(low[place], high[place]);
        std::memcpy(out + place * place_step + j, &words, sizeof words);
      }
    }
  }
}

inline void store_halves(const Vector& v, Half* to) {
  const __m256i halves = eight_words(v);
  std::memcpy(to, &halves, sizeof halves);
}

// One channel of x in bfloat16, out[place, tile]; a word holds two tiles
void transform_input(const float* x, Index channels, Index channel, const Tiling& t, Index first, Index last,
                     Half* out, Index place_step) {
  for (Index row = first; row < last; ++row, out += t.columns) {
    for (Index j = 0; j < t.columns; j += kLanes) {
      Vector v[kPlaces];
      transform_tiles(t.plane(x, channels, channel, row), t, row % t.rows, j, v);
      for (Index place = 0; place < kPlaces; ++place) store_halves(v[place], out + place * place_step + j);
    }
  }
}

// One channel of dy in bfloat16: A dy A' of every tile, zeros past the last tile of a row
void transform_gradient(const float* dy, Index channels, Index channel, const Tiling& t, Index first,
                        Index last, Half* out, Index place_step) {
  for (Index row = first; row < last; ++row, out += t.columns) {
    const Index y = 2 * (row % t.rows);
    const float* upper = t.plane(dy, channels, channel, row) + y * t.width;
    const bool has_lower = y + 1 < t.height;
    for (Index j = 0; j < t.columns; j += kLanes) {
      const Index left = t.width - 2 * j;
      Vector d[2][2] = {};
      for (int half = 0; half < 2; ++half) {
        const Index at = 2 * j + half * kLanes;
        d[0][half] = load(upper + at, left - half * kLanes);
        if (has_lower) d[1][half] = load(upper + t.width + at, left - half * kLanes);
      }
      const Vector u0 = permute(d[0][0], d[0][1], kEven), u1 = permute(d[0][0], d[0][1], kOdd),
                   l0 = permute(d[1][0], d[1][1], kEven), l1 = permute(d[1][0], d[1][1], kOdd);
      const Vector evens[] = {u0, u0 + l0, u0 - l0, -l0}, odds[] = {u1, u1 + l1, u1 - l1, -l1};
      for (Index i = 0; i < 4; ++i) {
        Half* to = out + 4 * i * place_step + j;
        const Vector a = evens[i], b = odds[i];
        store_halves(a, to), store_halves(a + b, to + place_step);
        store_halves(a - b, to + 2 * place_step), store_halves(-b, to + 3 * place_step);
      }
    }
  }
}

// A' m A of the tiles of a row, m[place, tile], plus the bias -> two rows of pixels
void transform_output(const float* m, Index place_step, float bias, const Tiling& t, Index row,
                      float* plane) {
  const Index y = 2 * row;
  const bool has_lower = y + 1 < t.height;
  for (Index j = 0; j < t.columns; j += kLanes) {
    Vector upper[4], lower[4];
    for (Index k = 0; k < 4; ++k) {
      const float* from = m + k * place_step + j;
      const Vector a = load(from), b = load(from + 4 * place_step), c = load(from + 8 * place_step),
                   d = load(from + 12 * place_step);
      upper[k] = a + (b + c), lower[k] = b - (c + d);
    }
    for (int half = 0; half < 1 + has_lower; ++half) {
      const Vector* v = half ? lower : upper;
      const Vector even = v[0] + v[1] + v[2] + bias, odd = v[1] - v[2] - v[3] + bias;
      float* pixels = plane + (y + half) * t.width + 2 * j;
      store_pixels(even, odd, pixels, t.width - 2 * j);
    }
  }
}

// The filters as sum_words reads them: [groups of kFilters outputs, place, pairs of inputs, kFilters] words
struct Filters {
  Index groups, pairs;
  WordScratch memory;

  // w [outputs, inputs, 3, 3], or, if `rotated`, [inputs, outputs, 3, 3] rotated by 180 degrees
  Filters(const float* w, Index outputs, Index inputs, bool rotated)
      : groups(ceil_divide(outputs, kFilters)), pairs(ceil_divide(inputs, 2)),
        memory(groups * kPlaces * pairs * kFilters, 1) {
    const Index output_step = rotated ? 9 : inputs * 9, input_step = rotated ? outputs * 9 : 9;
#pragma omp parallel for
    for (Index group = 0; group < groups; ++group) {
      const Index left = outputs - group * kFilters;
      const FilterLanes two(left, 2, output_step, input_step), one(left, 1, output_step, input_step);
      for (Index pair = 0; pair < pairs; ++pair) {
        const FilterLanes& lanes = 2 * pair + 1 < inputs ? two : one;
        const float* from = w + group * kFilters * output_step + 2 * pair * input_step;
        Vector rows[4][3];
        for (int column = 0; column < 3; ++column) {
          const auto g = [&](int row) {
            const int tap = 3 * row + column;
            return lanes.load(from + (rotated ? 8 - tap : tap));
          };
          const Vector a = g(0), b = g(1), c = g(2), both = a + c;
          rows[0][column] = a, rows[1][column] = 0.5f * (both + b);
          rows[2][column] = 0.5f * (both - b), rows[3][column] = c;
        }
        for (Index i = 0; i < 4; ++i) {
          const Vector a = rows[i][0], b = rows[i][1], c = rows[i][2], both = a + c;
          const Vector u[] = {a, 0.5f * (both + b), 0.5f * (both - b), c};
          for (Index k = 0; k < 4; ++k) {
            const __m256i words = eight_words(u[k]);
            std::memcpy(of(group, 4 * i + k) + pair * kFilters, &words, sizeof words);
          }
        }
      }
    }
  }
  Word* of(Index group, Index place) const {
    return memory.part(0) + (group * kPlaces + place) * pairs * kFilters;
  }
};

// x [N, inputs, H, W] -> y [N, outputs, H, W]
void convolve(const float* x, const Filters& filters, const float* bias, Index inputs, Index outputs,
              const Tiling& t, float* y) {
  const Index all = t.all_rows(), threads = omp_get_max_threads(), pairs = filters.pairs;
  const Index tiles = std::max(kBandTiles, kBandWords / (kPlaces * pairs));
  Index bands = ceil_divide(all, std::max<Index>(1, tiles / t.columns));
  bands = std::min(all, ceil_divide(bands, threads) * threads);  // the same number for every thread
  const Index band_rows = ceil_divide(all, bands);
  bands = ceil_divide(all, band_rows);
  const Index pitch = ceil_divide(band_rows * t.columns + 2 * kLanes, 16) / 2 * 32 + 16;
  const Index of_inputs = kPlaces * pairs * pitch, of_products = kPlaces * kFilters * pitch;
  std::vector<int32_t> offsets(pairs);
  for (Index pair = 0; pair < pairs; ++pair) offsets[pair] = static_cast<int32_t>(pair * pitch);
  const WordScratch words(of_inputs + 3 * kLanes);
  const Scratch floats(of_products + 64);
#pragma omp parallel
  {
    Word* transformed = words.of_thread();
    float* products = floats.of_thread();
#pragma omp for schedule(static)
    for (Index band = 0; band < bands; ++band) {
      const Index first = band * band_rows, last = std::min(all, first + band_rows);
      const Index number = (last - first) * t.columns;
      for (Index pair = 0; pair < pairs; ++pair) {
        transform_pair(x, inputs, 2 * pair, t, first, last, transformed + pair * pitch, pairs * pitch);
      }
      for (Index group = 0; group < filters.groups; ++group) {
        const Index k = group * kFilters, count = std::min(kFilters, outputs - k);
        for (Index place = 0; place < kPlaces; ++place) {
          sum_words_at(transformed + place * pairs * pitch, offsets.data(), pairs, filters.of(group, place),
                       nullptr, number, products + place * kFilters * pitch, count, pitch);
        }
        for (Index f = 0; f < count; ++f) {
          for (Index row = first; row < last; ++row) {
            float* plane = y + (row / t.rows * outputs + k + f) * t.size();
            transform_output(products + f * pitch + (row - first) * t.columns, kFilters * pitch,
                             bias ? bias[k + f] : 0.0f, t, row % t.rows, plane);
          }
        }
      }
    }
  }
}

// G' u G of every filter -> dw [K, C, 3, 3]; u is [place, groups of kFilters, C, kFilters]
void transform_back(const float* u, Index filters, Index channels, float* dw) {
  const Index groups = ceil_divide(filters, kFilters), place_step = groups * channels * kFilters;
#pragma omp parallel for
  for (Index group = 0; group < groups; ++group) {
    int32_t of_lane[16];  // two channels of kFilters filters
    for (int lane = 0; lane < 16; ++lane)
      of_lane[lane] = static_cast<int32_t>((lane % 8 * channels + lane / 8) * 9);
    __m512i offsets;
    std::memcpy(&offsets, of_lane, sizeof offsets);
    const Index count = std::min(kFilters, filters - group * kFilters);
    for (Index c = 0; c < channels; c += 2) {
      const auto lanes = static_cast<__mmask16>(((1u << count) - 1) * (c + 1 < channels ? 0x101u : 1u));
      const float* from = u + (group * channels + c) * kFilters;
      const Index left = (channels - c) * kFilters;
      Vector columns[3][4];
      for (Index j = 0; j < 4; ++j) {
        Vector v[4];
        for (Index i = 0; i < 4; ++i) v[i] = load(from + (4 * i + j) * place_step, left);
        const Vector half = 0.5f * (v[1] + v[2]);
        columns[0][j] = v[0] + half, columns[1][j] = 0.5f * (v[1] - v[2]), columns[2][j] = half + v[3];
      }
      float* to = dw + (group * kFilters * channels + c) * 9;
      for (Index i = 0; i < 3; ++i) {
        const Vector* v = columns[i];
        const Vector half = 0.5f * (v[1] + v[2]);
        const Vector found[] = {v[0] + half, 0.5f * (v[1] - v[2]), half + v[3]};
        for (Index j = 0; j < 3; ++j)
          _mm512_mask_i32scatter_ps(to + 3 * i + j, lanes, offsets, (__m512)found[j], 4);
      }
    }
  }
}

// Chunk after chunk of tiles: both factors are transformed, then multiplied.
void gradient_of_filters(const float* x, const float* dy, Index filters, Index channels, const Tiling& t,
                         float* dw) {
  const Index groups = ceil_divide(filters, kFilters), rows_of_dy = groups * kFilters;
  const Index fitting = kChunkBytes / (2 * kPlaces * (channels + rows_of_dy));
  const Index chunk_rows = std::clamp<Index>(std::min(fitting, kChunkTiles) / t.columns, 1, t.all_rows());
  const Index words = ceil_divide(chunk_rows * t.columns, 2) + kLanes;  // the last row writes past its end
  const Index pitch = ceil_divide(words, 16) / 2 * 32 + 16;
  const WordScratch of_x(kPlaces * channels * pitch, 1), of_dy(kPlaces * rows_of_dy * pitch, 1);
  const Scratch sums(kPlaces * rows_of_dy * channels, 1);
  float* totals = sums.part(0);
  std::vector<Index> offsets(channels);
  for (Index c = 0; c < channels; ++c) offsets[c] = c * pitch;
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (Index row = 0; row < kPlaces * rows_of_dy; ++row) {
      std::fill(totals + row * channels, totals + (row + 1) * channels, 0.0f);
      std::fill(of_dy.part(0) + row * pitch, of_dy.part(0) + (row + 1) * pitch, 0);
    }
    for (Index first = 0; first < t.all_rows(); first += chunk_rows) {
      const Index last = std::min(t.all_rows(), first + chunk_rows), tiles = (last - first) * t.columns;
#pragma omp for schedule(static)
      for (Index channel = 0; channel < channels + filters; ++channel) {
        if (channel < channels) {
          transform_input(x, channels, channel, t, first, last,
                          reinterpret_cast<Half*>(of_x.part(0) + channel * pitch), 2 * channels * pitch);
        } else {
          const Index k = channel - channels;
          transform_gradient(dy, filters, k, t, first, last,
                             reinterpret_cast<Half*>(of_dy.part(0) + k * pitch), 2 * rows_of_dy * pitch);
        }
      }
#pragma omp for schedule(static)
      for (Index unit = 0; unit < kPlaces * groups; ++unit) {
        const Index place = unit / groups, group = unit % groups;
        dot_words_at(of_x.part(0) + place * channels * pitch, offsets.data(), channels,
                     of_dy.part(0) + (place * rows_of_dy + group * kFilters) * pitch, pitch,
                     ceil_divide(tiles, 2), totals + unit * channels * kFilters);
      }
    }
  }
  transform_back(totals, filters, channels, dw);
}

void expect_inputs(const Tensor& x, const Tensor& weight) {
  expect_map(x);
  const Shape found = weight.shape();
  expect(found.size() == 4 && found[0] > 0, "a weight [K, C, 3, 3]", found);
  expect_tensor(weight, {found[0], x.shape()[1], 3, 3}, "a weight");
}

Tensor convolution(const Tensor& x, const Tensor& weight, const float* bias) {
  const Shape of_x = x.shape(), of_w = weight.shape();
  Tensor y = paddle::empty({of_x[0], of_w[0], of_x[2], of_x[3]}, x.dtype(), x.place());
  const Filters filters(weight.data<float>(), of_w[0], of_w[1], false);
  convolve(x.data<float>(), filters, bias, of_w[1], of_w[0], Tiling(of_x), y.data<float>());
  return y;
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight) {
  expect_inputs(x, weight);
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
  const Filters filters(weight.data<float>(), of_w[1], of_w[0], true);
  convolve(grad.data<float>(), filters, nullptr, of_w[0], of_w[1], Tiling(of_x), dx.data<float>());
  gradient_of_filters(x.data<float>(), grad.data<float>(), of_w[0], of_w[1], Tiling(of_x),
                      dweight.data<float>());
  return {dx, dweight};
}

std::vector<Tensor> backward_with_bias(const Tensor& x, const Tensor& weight, const Tensor& grad) {
  std::vector<Tensor> gradients = backward(x, weight, grad);
  gradients.push_back(gradient_of_bias(grad));
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

FUSED_OPERATOR(paddle_attn_bfloat16_conv3x3, forward, backward, PD_INFER_SHAPE(paddle_attn::shape_of_y),
               {"X", "Weight"});
FUSED_OPERATOR(paddle_attn_bfloat16_conv3x3_bias, forward_with_bias, backward_with_bias,
               PD_INFER_SHAPE(paddle_attn::shape_of_y_with_bias), {"X", "Weight", "Bias"}, {}, {}, {},
               {"Bias"});
