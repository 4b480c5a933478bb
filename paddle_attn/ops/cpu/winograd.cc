// The 3x3 convolution with stride 1 and padding 1:
//   paddle_attn_conv3x3(x [N, C, H, W], weight [K, C, 3, 3]) -> y [N, K, H, W]
//   paddle_attn_conv3x3_bias(x [N, C, H, W], weight [K, C, 3, 3], bias [K]) -> y [N, K, H, W]
//
// It uses Winograd's F(4x4, 3x3), which needs 36 multiplications instead of 144, and F(2x2, 3x3), which needs
// 16 instead of 36, for maps that tiles of 4x4 fit badly, and for few tiles.
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arxiv.org/abs/1509.09308
//
// The map is divided into tiles of MxM outputs, each computed from (M + 2)x(M + 2) inputs. With B, G and A of
// the paper, and one matrix product for each of the (M + 2)^2 places of a transformed tile:
//   forward            y  = A' [ (G w G') . (B' x B) ] A      summed over input channels
//   gradient of x      the same of dy, with the channels of w swapped and w rotated by 180 degrees, which
//                      exchanges places of G w G'
//   gradient of w      dw = G' [ (A dy A') . (B' x B) ] G     summed over tiles
// A band is a number of rows of tiles whose matrices fit into the cache. Each thread processes whole bands.
//
// NaN and Inf reach the outputs that they reach in Paddle's convolution, and with tiles of 4x4 other outputs
// of the same tile. A tile subtracts its inputs: where Paddle gives Inf, this form may give NaN. A weight that
// is not finite also makes NaN of the zeros of the padding. To give Paddle's Inf would need another pass over
// every output.
#include "products.h"

namespace paddle_attn {
namespace {

// In a band: enough that the filters and the sums of their gradients are rarely read, and that the inputs and
// outputs of a band of few channels fit into the second level of the cache
constexpr Index kTiles = 128;

// The transforms of the paper along one side of a tile: F(2, 3) with the points 0, 1, -1 and infinity.
struct Two {
  static constexpr Index kOutputs = 2, kInputs = 4, kPlaces = 16;
  static constexpr Index kRotated[kInputs] = {3, 1, 2, 0};  // the places of a filter that is read backwards

  template <class T>
  static void inputs(const T* d, T* v) {  // B' d
    v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
  }
  template <class T>
  static void outputs(const T* p, T* y) {  // A' p
    y[0] = p[0] + p[1] + p[2], y[1] = p[1] - p[2] - p[3];
  }
  template <class T>
  static void gradients(const T* dy, T* v) {  // A dy
    v[0] = dy[0], v[1] = dy[0] + dy[1], v[2] = dy[0] - dy[1], v[3] = -dy[1];
  }
  static void filter(const float* g, float* u) {  // G g
    const float both = g[0] + g[2];
    u[0] = g[0], u[1] = 0.5f * (both + g[1]), u[2] = 0.5f * (both - g[1]), u[3] = g[2];
  }
  static void filter_back(const float* u, float* g) {  // G' u
    const float half = 0.5f * (u[1] + u[2]);
    g[0] = u[0] + half, g[1] = 0.5f * (u[1] - u[2]), g[2] = half + u[3];
  }
};

// F(4, 3) with the points 0, r, -r, 1 / r, -1 / r and infinity, r = sqrt(1 / 2): rounding has half of the
// effect that it has with the usual 0, 1, -1, 2, -2 and infinity.
struct Four {
  static constexpr Index kOutputs = 4, kInputs = 6, kPlaces = 36;
  static constexpr Index kRotated[kInputs] = {5, 3, 4, 1, 2, 0};
  static constexpr float r = 0.70710678f;

  template <class T>
  static void inputs(const T* d, T* v) {
    const T even = 2.0f * d[2] - d[4], odd = r * (2.0f * d[1] - d[3]);
    const T even_too = 0.5f * d[4] - 0.25f * d[2], odd_too = r * (d[3] - 0.5f * d[1]);
    v[0] = d[0] + d[4] - 2.5f * d[2];
    v[1] = even + odd, v[2] = even - odd;
    v[3] = even_too + odd_too, v[4] = even_too - odd_too;
    v[5] = d[1] + d[5] - 2.5f * d[3];
  }
  template <class T>
  static void outputs(const T* p, T* y) {
    const T sum = p[1] + p[2], sum_too = p[3] + p[4], rest = p[1] - p[2], rest_too = p[3] - p[4];
    y[0] = p[0] + sum + sum_too, y[1] = r * (rest + 2.0f * rest_too);
    y[2] = 0.5f * sum + 2.0f * sum_too, y[3] = r * (0.5f * rest + 4.0f * rest_too) + p[5];
  }
  template <class T>
  static void gradients(const T* dy, T* v) {
    const T even = dy[0] + 0.5f * dy[2], odd = r * (dy[1] + 0.5f * dy[3]);
    const T even_too = dy[0] + 2.0f * dy[2], odd_too = r * (2.0f * dy[1] + 4.0f * dy[3]);
    v[0] = dy[0];
    v[1] = even + odd, v[2] = even - odd;
    v[3] = even_too + odd_too, v[4] = even_too - odd_too;
    v[5] = dy[3];
  }
  static void filter(const float* g, float* u) {
    const float even = (2.0f / 3) * g[0] + (1.0f / 3) * g[2], odd = (2.0f / 3) * r * g[1];
    const float even_too = (1.0f / 3) * g[0] + (2.0f / 3) * g[2];
    u[0] = g[0], u[1] = even + odd, u[2] = even - odd, u[3] = even_too + odd, u[4] = even_too - odd,
    u[5] = g[2];
  }
  static void filter_back(const float* u, float* g) {
    const float sum = u[1] + u[2], sum_too = u[3] + u[4];
    g[0] = u[0] + (2.0f / 3) * sum + (1.0f / 3) * sum_too;
    g[1] = (2.0f / 3) * r * (u[1] - u[2] + u[3] - u[4]);
    g[2] = (1.0f / 3) * sum + (2.0f / 3) * sum_too + u[5];
  }
};

// One matrix [rows, columns] for each place of a tile, in memory of the caller. A gap separates them: at
// distances of a power of two they would evict each other from the cache.
template <class F>
struct Matrices {
  Index pitch, step;
  float* memory;

  static Index step_of(Index rows, Index columns) { return rows * pitch_of(columns) + 48; }
  static Index floats(Index rows, Index columns) { return F::kPlaces * step_of(rows, columns); }
  Matrices(Index rows, Index columns, float* memory)
      : pitch(pitch_of(columns)), step(step_of(rows, columns)), memory(memory) {}
  float* at(Index place) const { return memory + place * step; }
  float* end() const { return at(F::kPlaces); }
  Next after(Index place) const { return {at(place + 1), place + 1 < F::kPlaces ? step : 0}; }
};

// Bands of tiles
template <class F>
struct Tiling : Bands {
  Index height, width;
  // For each tile of max_run + 1 rows of tiles: 0 in the first or last column, else all bits
  std::vector<int32_t> not_first, not_last;

  Tiling(Index batch, Index height, Index width)
      : Bands(batch, ceil_divide(height, F::kOutputs), ceil_divide(width, F::kOutputs),
              kTiles / ceil_divide(width, F::kOutputs)),
        height(height),
        width(width) {
    not_first.assign(of_columns(), -1);
    not_last = not_first;
    for (Index q = 0; q <= max_run * columns; q += columns) not_first[q] = not_last[q + columns - 1] = 0;
  }

  // One value for each tile of max_run + 1 rows of them, with room for vectors around
  Index of_columns() const { return (max_run + 1) * columns + 2 * kLanes; }
  // The pixels of one row in each tile
  Index of_lines() const { return F::kOutputs * of_columns(); }
  // Such a line, its columns, and the transformed columns of all rows
  Index work_floats() const { return 2 * of_lines() + F::kOutputs * F::kInputs * of_columns(); }
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

// Copies the rows y, y + M, ... of pixels to lines of M t.columns, with zeros where the plane has no pixel.
template <class F>
void copy_lines(const float* plane, const Tiling<F>& t, Index y, Index number, float* to) {
  for (Index i = 0; i < number; ++i, y += F::kOutputs, to += F::kOutputs * t.columns) {
    const Index found = y >= 0 && y < t.height ? t.width : 0;
    std::copy(plane + y * t.width, plane + y * t.width + found, to);
    std::fill(to + found, to + F::kOutputs * t.columns, 0.0f);
  }
}

// columns[m][i] = line[M i + m] for the M vectors at i
inline void split(const float* line, Vector (&columns)[2]) {
  const Vector a = load(line), b = load(line + kLanes);
  columns[0] = every_second<0>(a, b), columns[1] = every_second<1>(a, b);
}
inline void split(const float* line, Vector (&columns)[4]) {
  Vector low[2], high[2];
  split(line, low), split(line + 2 * kLanes, high);
  columns[0] = every_second<0>(low[0], high[0]), columns[1] = every_second<0>(low[1], high[1]);
  columns[2] = every_second<1>(low[0], high[0]), columns[3] = every_second<1>(low[1], high[1]);
}

// The reverse of split
inline void join(const Vector (&columns)[2], float* line) {
  save(interleave<0>(columns[0], columns[1]), line),
      save(interleave<1>(columns[0], columns[1]), line + kLanes);
}
inline void join(const Vector (&columns)[4], float* line) {
  const Vector *c = columns, even[2] = {interleave<0>(c[0], c[2]), interleave<0>(c[1], c[3])};
  const Vector odd[2] = {interleave<1>(c[0], c[2]), interleave<1>(c[1], c[3])};
  join(even, line), join(odd, line + 2 * kLanes);
}

// B' x B of every tile in a band; out is [channels, tiles] for each place, work holds t.work_floats().
// Tiles are counted through all rows of a run. A last vector that exceeds its run is overwritten by the next.
template <class F>
void transform_inputs(const float* x, Index channels, const Tiling<F>& t, Index band, float* work,
                      const Matrices<F>& out) {
  constexpr Index M = F::kOutputs, N = F::kInputs;
  const Index of_columns = t.of_columns(), step = out.step;
  float *line = work, *columns = line + t.of_lines() + kLanes, *mixed = columns + t.of_lines() - kLanes;
  std::fill(work, mixed, 0.0f);
  for (Index c = 0; c < channels; ++c) {
    t.for_each_run(band, [&](Index image, Index row, Index rows, Index tile) {
      const float* plane = x + (image * channels + c) * t.height * t.width;
      for (Index i = 0; i < M; ++i) {  // the columns: of the pixels M r - 1 + i for each row r
        copy_lines(plane, t, M * row - 1 + i, rows + (i < 2), line);
        const Index places = (rows + (i < 2)) * t.columns;
        for (Index q = 0; q < places; q += kLanes) {
          Vector found[M];
          split(line + M * q, found);
#pragma GCC unroll 4
          for (Index m = 0; m < M; ++m) save(found[m], columns + m * of_columns + q);
        }
        for (Index q = 0; q < places; q += kLanes) {
          Vector d[N], v[N];
          d[0] = masked(load(columns + (M - 1) * of_columns + q - 1), &t.not_first[q]);
#pragma GCC unroll 4
          for (Index m = 0; m < M; ++m) d[m + 1] = load(columns + m * of_columns + q);
          d[N - 1] = masked(load(columns + q + 1), &t.not_last[q]);
          F::inputs(d, v);
#pragma GCC unroll 6
          for (Index n = 0; n < N; ++n) save(v[n], mixed + (i * N + n) * of_columns + q);
        }
      }
      float* to = out.at(0) + c * out.pitch + tile;
      for (Index j = 0; j < N; ++j) {  // the rows
        for (Index q = 0; q < rows * t.columns; q += kLanes) {
          Vector d[N], v[N];
#pragma GCC unroll 6
          for (Index n = 0; n < N; ++n)
            d[n] = load(mixed + (n % M * N + j) * of_columns + q + n / M * t.columns);
          F::inputs(d, v);
#pragma GCC unroll 6
          for (Index n = 0; n < N; ++n) save(v[n], to + (n * N + j) * step + q);
        }
      }
    });
  }
}

// A' m A of every tile in a band, plus the bias unless it is null; in is [channels, tiles] for each place
template <class F>
void transform_outputs(const Matrices<F>& in, const float* bias, Index channels, const Tiling<F>& t,
                       Index band, float* work, float* y) {
  constexpr Index M = F::kOutputs, N = F::kInputs;
  const Index step = in.step, of_lines = t.of_lines();
  for (Index c = 0; c < channels; ++c) {
    const float shift = bias ? bias[c] : 0.0f;
    t.for_each_run(band, [&](Index image, Index row, Index rows, Index tile) {
      const float* from = in.at(0) + c * in.pitch + tile;
      for (Index q = 0; q < rows * t.columns; q += kLanes) {
        Vector mixed[M][N];
#pragma GCC unroll 6
        for (Index j = 0; j < N; ++j) {
          Vector p[N], found[M];
#pragma GCC unroll 6
          for (Index n = 0; n < N; ++n) p[n] = load(from + (n * N + j) * step + q);
          F::outputs(p, found);
#pragma GCC unroll 4
          for (Index m = 0; m < M; ++m) mixed[m][j] = found[m];
        }
#pragma GCC unroll 4
        for (Index m = 0; m < M; ++m) {
          Vector found[M];
          F::outputs(mixed[m], found);
#pragma GCC unroll 4
          for (Index n = 0; n < M; ++n) found[n] += shift;
          join(found, work + m * of_lines + M * q);
        }
      }
      float* plane = y + (image * channels + c) * t.height * t.width;
      for (Index at = M * row; at < std::min(M * (row + rows), t.height); ++at) {
        const float* line = work + at % M * of_lines + (at / M - row) * M * t.columns;
        std::copy(line, line + t.width, plane + at * t.width);
      }
    });
  }
}

// A dy A' of every tile in a band; out is [channels, tiles] for each place
template <class F>
void transform_gradients(const float* dy, Index channels, const Tiling<F>& t, Index band, float* work,
                         const Matrices<F>& out) {
  constexpr Index M = F::kOutputs, N = F::kInputs;
  const Index step = out.step, of_lines = t.of_lines();
  std::fill(work, work + M * of_lines, 0.0f);
  for (Index c = 0; c < channels; ++c) {
    t.for_each_run(band, [&](Index image, Index row, Index rows, Index tile) {
      const float* plane = dy + (image * channels + c) * t.height * t.width;
      for (Index m = 0; m < M; ++m) copy_lines(plane, t, M * row + m, rows, work + m * of_lines);
      float* to = out.at(0) + c * out.pitch + tile;
      for (Index q = 0; q < rows * t.columns; q += kLanes) {
        Vector mixed[N][M];
        {
          Vector pixels[M][M];
#pragma GCC unroll 4
          for (Index m = 0; m < M; ++m) split(work + m * of_lines + M * q, pixels[m]);
#pragma GCC unroll 4
          for (Index m = 0; m < M; ++m) {
            Vector column[M], found[N];
#pragma GCC unroll 4
            for (Index n = 0; n < M; ++n) column[n] = pixels[n][m];
            F::gradients(column, found);
#pragma GCC unroll 6
            for (Index n = 0; n < N; ++n) mixed[n][m] = found[n];
          }
        }
#pragma GCC unroll 6
        for (Index n = 0; n < N; ++n) {
          Vector found[N];
          F::gradients(mixed[n], found);
#pragma GCC unroll 6
          for (Index j = 0; j < N; ++j) save(found[j], to + (n * N + j) * step + q);
        }
      }
    });
  }
}

// G w G' of every filter: w [K, C, 3, 3] -> out, [K, C] for each place
template <class F>
void transform_filters(const float* w, Index filters, Index channels, const Matrices<F>& out) {
  constexpr Index N = F::kInputs;
#pragma omp parallel for
  for (Index k = 0; k < filters; ++k) {
    float* row = out.at(0) + k * out.pitch;
#pragma omp simd
    for (Index c = 0; c < channels; ++c) {
      const float* g = w + (k * channels + c) * 9;
      float mixed[3][N];
      for (Index j = 0; j < 3; ++j) {
        const float column[3] = {g[j], g[3 + j], g[6 + j]};
        F::filter(column, mixed[j]);
      }
      for (Index n = 0; n < N; ++n) {
        const float line[3] = {mixed[0][n], mixed[1][n], mixed[2][n]};
        float u[N];
        F::filter(line, u);
        for (Index j = 0; j < N; ++j) row[(n * N + j) * out.step + c] = u[j];
      }
    }
  }
}

// x [N, from, H, W] -> y [N, to, H, W] with transformed filters [to, from], or, if `rotated`, with filters
// [from, to] rotated by 180 degrees
template <class F>
void convolve(const float* x, const Matrices<F>& filters, bool rotated, const float* bias, Index from,
              Index to, const Tiling<F>& t, float* y) {
  constexpr Index N = F::kInputs;
  const auto of_place = [&](Index place) {
    return filters.at(rotated ? N * F::kRotated[place / N] + F::kRotated[place % N] : place);
  };
  const Index tiles = t.max_places();
  const Scratch memory(Matrices<F>::floats(from, tiles) + Matrices<F>::floats(to, tiles) + t.work_floats());
#pragma omp parallel
  {
    const Matrices<F> inputs(from, tiles, memory.of_thread());
    const Matrices<F> products(to, tiles, inputs.end());
    float* work = products.end();
#pragma omp for schedule(static)
    for (Index band = 0; band < t.bands; ++band) {
      transform_inputs(x, from, t, band, work, inputs);
      for (Index place = 0; place < F::kPlaces; ++place) {
        const Matrix factors{of_place(place), rotated ? 1 : filters.pitch, rotated ? filters.pitch : 1};
        const Next next{of_place((place + 1) % F::kPlaces), filters.step};
        multiply(factors, to, from, inputs.at(place), inputs.pitch, t.places(band), false, products.at(place),
                 products.pitch, next, inputs.after(place));
      }
      transform_outputs(products, bias, to, t, band, work, y);
    }
  }
}

// G' u G of every filter -> dw [K, C, 3, 3]; u is [K, C] for each place, the sum of those of the threads
template <class F>
void transform_back(const std::vector<Matrices<F>>& sums, Index filters, Index channels, float* dw) {
  constexpr Index N = F::kInputs;
#pragma omp parallel for
  for (Index k = 0; k < filters; ++k) {
    for (Index c = 0; c < channels; ++c) {
      float u[F::kPlaces] = {}, mixed[N][3];
      for (const Matrices<F>& sum : sums) {
        for (Index place = 0; place < F::kPlaces; ++place) u[place] += sum.at(place)[k * sum.pitch + c];
      }
      for (Index n = 0; n < N; ++n) F::filter_back(u + n * N, mixed[n]);
      for (Index j = 0; j < 3; ++j) {
        float column[N], g[3];
        for (Index n = 0; n < N; ++n) column[n] = mixed[n][j];
        F::filter_back(column, g);
        for (Index i = 0; i < 3; ++i) dw[(k * channels + c) * 9 + 3 * i + j] = g[i];
      }
    }
  }
}

template <class F>
void gradient_of_filters(const float* x, const float* dy, Index filters, Index channels, const Tiling<F>& t,
                         float* dw) {
  const Index tiles = t.max_places(), padded = ceil_divide(channels, kLanes) * kLanes;
  const Index pitch = pitch_of(channels);  // of the inputs of one place, [tiles, channels]
  const Scratch memory(Matrices<F>::floats(padded, tiles) + Matrices<F>::floats(filters, tiles) +
                       pitch * (tiles + kLanes) + t.work_floats());
  const Index threads = omp_get_max_threads();
  const Scratch totals(Matrices<F>::floats(filters, channels), threads);
  std::vector<char> used(threads);  // by threads that processed a band
#pragma omp parallel
  {
    const Matrices<F> inputs(padded, tiles, memory.of_thread()), gradients(filters, tiles, inputs.end());
    float *transposed = gradients.end(), *work = transposed + pitch * (tiles + kLanes);
    const Matrices<F> sum(filters, channels, totals.of_thread());
    char& is_used = used[omp_get_thread_num()];
#pragma omp for schedule(static)
    for (Index band = 0; band < t.bands; ++band) {
      transform_inputs(x, channels, t, band, work, inputs);
      transform_gradients(dy, filters, t, band, work, gradients);
      for (Index place = 0; place < F::kPlaces; ++place) {
        transpose(inputs.at(place), inputs.pitch, channels, t.places(band), transposed, pitch);
        multiply({gradients.at(place), gradients.pitch, 1}, filters, t.places(band), transposed, pitch,
                 channels, is_used, sum.at(place), sum.pitch, inputs.after(place), gradients.after(place));
      }
      is_used = true;
    }
  }
  std::vector<Matrices<F>> sums;  // added in the order of the threads
  for (Index thread = 0; thread < threads; ++thread) {
    if (used[thread]) sums.emplace_back(filters, channels, totals.part(thread));
  }
  transform_back(sums, filters, channels, dw);
}

// Calls f with Four{} or Two{}: that of fewer products. Four has more places, so its filters need more
// memory, which pays from some dozens of tiles on.
template <class Body>
void with_form(const Shape& x, Body f) {
  const auto tiles = [&](Index side) { return x[0] * ceil_divide(x[2], side) * ceil_divide(x[3], side); };
  const Index few = 48;
  if (tiles(4) >= few && Four::kPlaces * tiles(4) < Two::kPlaces * tiles(2))
    f(Four{});
  else
    f(Two{});
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
  with_form(of_x, [&](auto form) {
    using F = decltype(form);
    const Tiling<F> tiling(of_x[0], of_x[2], of_x[3]);
    const Scratch memory(Matrices<F>::floats(of_w[0], of_w[1]), 1);
    const Matrices<F> filters(of_w[0], of_w[1], memory.part(0));
    transform_filters(weight.data<float>(), of_w[0], of_w[1], filters);
    convolve(x.data<float>(), filters, false, bias, of_w[1], of_w[0], tiling, y.data<float>());
  });
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
  with_form(of_x, [&](auto form) {
    using F = decltype(form);
    const Tiling<F> tiling(of_x[0], of_x[2], of_x[3]);
    const Scratch memory(Matrices<F>::floats(of_w[0], of_w[1]), 1);
    const Matrices<F> filters(of_w[0], of_w[1], memory.part(0));
    transform_filters(weight.data<float>(), of_w[0], of_w[1], filters);
    const float* dy = grad.data<float>();
    convolve(dy, filters, true, nullptr, of_w[0], of_w[1], tiling, dx.data<float>());
    gradient_of_filters(x.data<float>(), dy, of_w[0], of_w[1], tiling, dweight.data<float>());
  });
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
