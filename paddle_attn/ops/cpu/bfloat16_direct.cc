// The dense convolution with an odd kernel k, padding (k - 1) / 2 and stride 1 or 2, multiplied in bfloat16:
//   paddle_attn_bfloat16_conv(x [N, C, H, W], weight [K, C, k, k], stride, needs_dx) -> y [N, K, H', W']
//   paddle_attn_bfloat16_conv_bias(x, weight, bias [K], stride, needs_dx) -> y
//   k is 1, 3, 5 or 7, H' = ceil(H / stride), W' likewise; without needs_dx the gradient of x is zero
//
// The sums are computed as they are written. A frame holds the words of one plane of the source, row after
// row, with zeros between the rows and around the plane: then every tap of the kernel is one distance in
// memory, the same for all places. With stride 2 a plane has a frame for each remainder (phase) of row and
// column. What is computed at the zeros between the rows is dropped.
//   forward, gradient of x   a word holds two channels; the sum runs over channels and taps
//   gradient of the weight   a word holds two images; the sum runs over images and places
// A strip is a number of rows, or of images with few pixels, whose frames fit into the cache.
//
// No sum depends on the number of threads: each is computed by one of them, in an order that depends on the
// shapes only.
#include "bfloat16.h"

namespace paddle_attn {
namespace {

constexpr Index kStripWords = 64 << 10;
constexpr Index kChunkWords = 4 << 20;   // of a chunk of images, in the gradient of the weight
constexpr Index kDotWords = 640;         // of a row in the first cache, when eleven of them are multiplied
constexpr Index kTapBlock = 96;          // taps of a unit of work there
constexpr Index kWideRow = 96;           // places that fill the vectors well enough

struct Phase {
  Index row, column;
};

struct Shift {  // a tap of the kernel
  Index phase;        // the frame in which it lies
  Index row, column;  // of its place there, from the place of the sum
  Index weight;       // its element of the k x k of a filter
};

// A frame: `high` and `low` rows and columns of zeros around the grid of places.
struct Frame {
  Index rows, columns;  // of the grid
  Index low, high;
  Index step;           // between rows and columns of the source plane
  Index height, width;  // of the source plane

  Index line() const { return columns + std::max(low, high); }
  Index words(Index of_rows) const {  // sum_words_at reads two vectors too many
    return (ceil_divide(2 * low + (of_rows + low + high) * line() + high + 3 * kLanes, 16) | 1) * 16;
  }
  Index distance(const Shift& shift) const {
    return low + (low + shift.row) * line() + shift.column;
  }

  // The words of the rows [first, first + of_rows) of the grid and the zeros around them; `other` can be null
  void make(const float* plane, const float* other, const Phase& phase, Index first, Index of_rows,
            Word* to) const {
    Word* const end = to + words(of_rows);
    std::fill(to, to + low, 0);
    to += low;
    for (Index q = first - low; q < first + of_rows + high; ++q, to += line()) {
      const Index row = step * q + phase.row;
      if (row < 0 || row >= height) {
        std::fill(to, to + line(), 0);
      } else {
        make_row(plane + row * width, other ? other + row * width : nullptr, phase.column, to);
      }
    }
    std::fill(to, end, 0);
  }

  void make_row(const float* low_half, const float* high_half, Index remainder, Word* to) const {
    Index j = 0;
    if (high_half) {  // whole vectors, without masks
      for (; step == 1 && j + kLanes <= width; j += kLanes)
        store_words(zip(load(low_half + j), load(high_half + j)), to + j);
      for (; step == 2 && 2 * (j + kLanes) <= width; j += kLanes)
        store_words(zip(every_second(low_half + 2 * j, remainder, 2 * kLanes),
                        every_second(high_half + 2 * j, remainder, 2 * kLanes)), to + j);
    }
    for (; j < columns; j += kLanes) {
      const auto pixels = [&](const float* row) {
        if (!row) return Vector{};
        if (step == 1) return load(row + j, width - j);
        return every_second(row + 2 * j, remainder, width - 2 * j);
      };
      const Words words = zip(pixels(low_half), pixels(high_half));
      _mm512_mask_storeu_epi32(to + j, first_lanes(line() - j), (__m512i)words);
    }
    std::fill(to + columns, to + line(), 0);
  }

  static void store_words(const Words& words, Word* to) { std::memcpy(to, &words, sizeof words); }
  // The even or the odd ones of `left` pixels, zero where there are none
  static Vector every_second(const float* row, Index remainder, Index left) {
    const Vector a = load(row, left), b = load(row + kLanes, left - kLanes);
    return remainder ? permute(a, b, kOdd) : permute(a, b, kEven);
  }
};

struct Geometry {
  Index batch, channels, height, width, filters, side, stride, padding;
  Index rows, columns;  // of the output

  // A 1x1 convolution with stride 1 sees the same places in rows of any length: longer ones fill the vectors.
  Geometry(const Shape& x, const Shape& weight, Index stride)
      : batch(x[0]), channels(x[1]), height(x[2]), width(x[3]), filters(weight[0]), side(weight[2]),
        stride(stride), padding((side - 1) / 2) {
    if (side == 1 && stride == 1) {
      Index joined = 1;
      while (joined < height && (height % joined || joined * width < kWideRow)) ++joined;
      height /= joined, width *= joined;
    }
    rows = ceil_divide(height, stride), columns = ceil_divide(width, stride);
  }

  Index size() const { return height * width; }
  Index places() const { return rows * columns; }
  Index taps() const { return side * side; }

  Frame of_x() const {
    return {rows, columns, ceil_divide(padding, stride), padding / stride, stride, height, width};
  }
  std::vector<Phase> phases_of_x() const {
    std::vector<Phase> phases;
    for (Index row = 0; row < std::min(stride, side); ++row) {
      for (Index column = 0; column < std::min(stride, side); ++column) phases.push_back({row, column});
    }
    return phases;
  }
  std::vector<Shift> shifts_of_x() const {
    std::vector<Shift> shifts;
    for (Index row = 0; row < side; ++row) {
      for (Index column = 0; column < side; ++column) {
        const Index down = row - padding + stride * padding, right = column - padding + stride * padding;
        const Index phase = down % stride * std::min(stride, side) + right % stride;
        shifts.push_back({phase, down / stride - padding, right / stride - padding, row * side + column});
      }
    }
    return shifts;
  }

  Frame of_gradient() const {
    return {rows, columns, padding / stride, ceil_divide(padding, stride), 1, rows, columns};
  }
  // The taps that reach the places of x with these remainders of row and column
  std::vector<Shift> shifts_of_gradient(const Phase& phase) const {
    std::vector<Shift> shifts;
    for (Index row = 0; row < side; ++row) {
      for (Index column = 0; column < side; ++column) {
        const Index down = phase.row + padding - row, right = phase.column + padding - column;
        if (down % stride == 0 && right % stride == 0)
          shifts.push_back({0, down / stride, right / stride, row * side + column});
      }
    }
    return shifts;
  }
};

// One of the sums of a convolution: its taps, and its weights as sum_words reads them:
// [groups of kFilters outputs, pairs of inputs, taps, kFilters] words.
struct Weights {
  std::vector<Shift> shifts;
  Index depth;
  WordScratch memory;

  Weights(const float* w, Index outputs, Index inputs, Index output_step, Index input_step,
          std::vector<Shift> taps)
      : shifts(std::move(taps)), depth(ceil_divide(inputs, 2) * static_cast<Index>(shifts.size())),
        memory(ceil_divide(outputs, kFilters) * kFilters * depth, 1) {
#pragma omp parallel for
    for (Index k = 0; k < outputs; k += kFilters) {
      Word* to = memory.part(0) + k * depth;
      const FilterLanes two(outputs - k, 2, output_step, input_step);
      const FilterLanes one(outputs - k, 1, output_step, input_step);
      for (Index i = 0; i < inputs; i += 2) {
        const FilterLanes& lanes = i + 1 < inputs ? two : one;
        const float* from = w + k * output_step + i * input_step;
        for (const Shift& shift : shifts) {
          const __m256i words = eight_words(lanes.load(from + shift.weight));
          std::memcpy(to, &words, sizeof words);
          to += kFilters;
        }
      }
    }
  }

  std::vector<int32_t> offsets(const Frame& frame, Index pairs, Index phases, Index pitch) const {
    std::vector<int32_t> found;
    for (Index pair = 0; pair < pairs; ++pair) {
      for (const Shift& shift : shifts)
        found.push_back(static_cast<int32_t>((pair * phases + shift.phase) * pitch + frame.distance(shift)));
    }
    return found;
  }
};

struct Source {
  const float* data;  // [batch, channels, frame.height, frame.width]
  Index batch, channels;
  Frame frame;
  std::vector<Phase> phases;
};

struct Result {
  float* data;  // [batch, channels, height, width]
  Index channels, height, width;
  Index step;  // 2: the grid of places comes four times, for the remainders of row and column
};

// result = the sums of `weights`, one for each remainder, plus the bias unless it is null
void convolve(const Source& from, const std::vector<Weights>& weights, const float* bias, const Result& to) {
  const Frame& frame = from.frame;
  const Index pairs = ceil_divide(from.channels, 2), phases = static_cast<Index>(from.phases.size());
  const Index sums = static_cast<Index>(weights.size()), threads = omp_get_max_threads();
  const Index line = frame.line(), wide = pairs * phases * line;
  const bool joins = frame.low + frame.high == 0;  // images without zeros around them follow each other
  Index strips = ceil_divide(frame.rows, std::max<Index>(kStripWords / wide - frame.low - frame.high, 1));
  strips = std::min(frame.rows, std::max(strips, ceil_divide(threads, from.batch)));
  const Index strip_rows = ceil_divide(frame.rows, strips);
  strips = ceil_divide(frame.rows, strip_rows);
  const Index fitting = std::max<Index>(1, kStripWords / (wide * frame.rows));
  const Index group = joins && strips == 1 ? std::min(fitting, ceil_divide(from.batch, threads)) : 1;
  const Index groups = ceil_divide(from.batch, group), image_words = strip_rows * line;
  const Index pitch = frame.words(strip_rows) + (group - 1) * image_words;
  const Index out_pitch = (ceil_divide(group * image_words, 16) | 1) * 16, size = to.height * to.width;
  const bool at_once = joins && group == 1 && to.step == 1;  // the sums are the result
  std::vector<std::vector<int32_t>> offsets;
  for (const Weights& sum : weights) offsets.push_back(sum.offsets(frame, pairs, phases, pitch));
  const WordScratch frames(pairs * phases * pitch);
  const Scratch results(at_once ? 0 : sums * kFilters * out_pitch + 2 * kLanes);
#pragma omp parallel for schedule(static)
  for (Index unit = 0; unit < groups * strips; ++unit) {
    const Index start = unit / strips * group, images = std::min(group, from.batch - start);
    const Index first = unit % strips * strip_rows, rows = std::min(strip_rows, frame.rows - first);
    Word* words = frames.of_thread();
    for (Index pair = 0; pair < pairs; ++pair) {
      for (Index phase = 0; phase < phases; ++phase) {
        for (Index n = 0; n < images; ++n) {
          const float* plane =
              from.data + ((start + n) * from.channels + 2 * pair) * frame.height * frame.width;
          frame.make(plane, 2 * pair + 1 < from.channels ? plane + frame.height * frame.width : nullptr,
                     from.phases[phase], first, rows,
                     words + (pair * phases + phase) * pitch + n * image_words);
        }
      }
    }
    for (Index k = 0; k < to.channels; k += kFilters) {
      const Index count = std::min(kFilters, to.channels - k);
      float* image = to.data + (start * to.channels + k) * size;
      float* products = at_once ? image + first * line : results.of_thread();
      for (Index sum = 0; sum < sums; ++sum) {
        sum_words_at(words, offsets[sum].data(), weights[sum].depth,
                     weights[sum].memory.part(0) + k * weights[sum].depth, bias ? bias + k : nullptr,
                     (images - 1) * image_words + rows * line, products + sum * kFilters * out_pitch, count,
                     at_once ? size : out_pitch);
      }
      if (at_once) continue;
      for (Index n = 0; n < images; ++n, image += to.channels * size) {
        for (Index f = 0; f < count; ++f) {
          const float* found = products + f * out_pitch + n * image_words;
          float* plane = image + f * size;
          if (to.step == 1) {
            for (Index i = 0; i < rows; ++i)
              std::copy_n(found + i * line, to.width, plane + (first + i) * to.width);
            continue;
          }
          const Index last = std::min(2 * (first + rows), to.height);
          for (Index y = 2 * first; y < last; ++y) {
            const float* even = found + y % 2 * 2 * kFilters * out_pitch + (y / 2 - first) * line;
            const float* odd = even + kFilters * out_pitch;
            for (Index j = 0; 2 * j < to.width; j += kLanes)
              store_pixels(load(even + j), load(odd + j), plane + y * to.width + 2 * j, to.width - 2 * j);
          }
        }
      }
    }
  }
}

// Chunk after chunk of images: the frames of all their pairs follow each other, for each channel and filter.
void gradient_of_weight(const float* x, const float* dy, const Geometry& g, float* dw) {
  const Frame of_x = g.of_x();
  const Frame of_dy{g.rows, of_x.line(), 0, 0, 1, g.rows, g.columns};  // its columns end with the zeros
  const std::vector<Phase> phases = g.phases_of_x();
  const std::vector<Shift> shifts = g.shifts_of_x();
  const Index pairs = ceil_divide(g.batch, 2), number = static_cast<Index>(phases.size());
  const Index step = (g.rows + of_x.low + of_x.high) * of_x.line();  // from a pair of images to the next
  const Index groups = ceil_divide(g.filters, kFilters), taps = g.channels * g.taps();
  const Index rows_of_dy = groups * kFilters;
  const Index chunk = std::clamp<Index>(kChunkWords / ((g.channels * number + rows_of_dy) * step), 1, pairs);
  const Index pitch = (ceil_divide((chunk - 1) * step + of_x.words(g.rows), 16) | 1) * 16;
  const Index blocks = ceil_divide(taps, kTapBlock);
  // of filters, which share the taps of a block in the cache; the threads need enough units
  const Index shared = std::clamp<Index>(groups * blocks / (2 * omp_get_max_threads()), 1, 16);
  const Index units = ceil_divide(groups, shared);
  std::vector<Index> offsets;
  for (Index c = 0; c < g.channels; ++c) {
    for (const Shift& shift : shifts)
      offsets.push_back((c * number + shift.phase) * pitch + of_x.distance(shift));
  }
  const WordScratch frames(g.channels * number * pitch, 1), gradients(rows_of_dy * pitch, 1);
  const Scratch sums(rows_of_dy * taps, 1);
  float* totals = sums.part(0);
#pragma omp parallel
  for (Index start = 0; start < pairs; start += chunk) {
    const Index of_chunk = std::min(chunk, pairs - start);
    const Index words = (of_chunk - 1) * step + g.rows * of_x.line();
    const Index stretches = ceil_divide(words, kDotWords);
    const Index stretch = ceil_divide(ceil_divide(words, stretches), kLanes) * kLanes;
#pragma omp for schedule(static)
    for (Index channel = 0; channel < g.channels + rows_of_dy; ++channel) {
      const Index k = channel - g.channels;
      for (Index pair = 0; pair < of_chunk; ++pair) {
        const Index n = 2 * (start + pair);
        const bool both = n + 1 < g.batch;
        if (k < 0) {
          const float* plane = x + (n * g.channels + channel) * g.size();
          for (Index phase = 0; phase < number; ++phase) {
            of_x.make(plane, both ? plane + g.channels * g.size() : nullptr, phases[phase], 0, g.rows,
                      frames.part(0) + (channel * number + phase) * pitch + pair * step);
          }
          continue;
        }
        const float* plane = dy + (n * g.filters + k) * g.places();
        Word* to = gradients.part(0) + k * pitch + pair * step;
        std::fill(to, to + step, 0);
        if (k < g.filters)
          of_dy.make(plane, both ? plane + g.filters * g.places() : nullptr, {0, 0}, 0, g.rows, to);
      }
    }
#pragma omp for schedule(static)
    for (Index unit = 0; unit < units * blocks; ++unit) {
      const Index tap = unit / units * kTapBlock, count = std::min(kTapBlock, taps - tap);
      const Index first = unit % units * shared, last = std::min(first + shared, groups);
      for (Index from = 0; from < words; from += stretch) {
        for (Index group = first; group < last; ++group) {
          float* to = totals + (group * taps + tap) * kFilters;
          if (start + from == 0) std::fill(to, to + count * kFilters, 0.0f);
          dot_words_at(frames.part(0) + from, &offsets[tap], count,
                       gradients.part(0) + group * kFilters * pitch + from, pitch,
                       std::min(stretch, words - from), to);
        }
      }
    }
  }
#pragma omp parallel for
  for (Index k = 0; k < g.filters; ++k) {
    const float* from = totals + k / kFilters * taps * kFilters + k % kFilters;
    for (Index tap = 0; tap < taps; ++tap) {
      dw[k * taps + tap / g.taps() * g.taps() + shifts[tap % g.taps()].weight] = from[tap * kFilters];
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

Tensor convolution(const Tensor& x, const Tensor& weight, const float* bias, int stride) {
  const Geometry g(x.shape(), weight.shape(), stride);
  Tensor y = paddle::empty(output_shape(x.shape(), weight.shape(), stride), x.dtype(), x.place());
  std::vector<Weights> sums;
  sums.emplace_back(weight.data<float>(), g.filters, g.channels, g.channels * g.taps(), g.taps(),
                    g.shifts_of_x());
  convolve({x.data<float>(), g.batch, g.channels, g.of_x(), g.phases_of_x()}, sums, bias,
           {y.data<float>(), g.filters, g.rows, g.columns, 1});
  return y;
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, int stride, bool) {
  expect_inputs(x, weight, stride);
  return {convolution(x, weight, nullptr, stride)};
}

std::vector<Tensor> forward_with_bias(const Tensor& x, const Tensor& weight, const Tensor& bias, int stride,
                                      bool) {
  expect_inputs(x, weight, stride);
  expect_tensor(bias, {weight.shape()[0]}, "a bias");
  return {convolution(x, weight, bias.data<float>(), stride)};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& grad, int stride,
                             bool needs_dx) {
  expect_inputs(x, weight, stride);
  expect_gradient(grad, output_shape(x.shape(), weight.shape(), stride));
  Tensor dx = paddle::empty_like(x), dweight = paddle::empty_like(weight);
  const Geometry g(x.shape(), weight.shape(), stride);
  if (needs_dx) {
    std::vector<Weights> sums;
    for (Index row = 0; row < stride; ++row) {
      for (Index column = 0; column < stride; ++column) {
        sums.emplace_back(weight.data<float>(), g.channels, g.filters, g.taps(), g.channels * g.taps(),
                          g.shifts_of_gradient({row, column}));
      }
    }
    convolve({grad.data<float>(), g.batch, g.filters, g.of_gradient(), {{0, 0}}}, sums, nullptr,
             {dx.data<float>(), g.channels, g.height, g.width, stride});
  } else {
    std::fill(dx.data<float>(), dx.data<float>() + dx.numel(), 0.0f);
  }
  gradient_of_weight(x.data<float>(), grad.data<float>(), g, dweight.data<float>());
  return {dx, dweight};
}

std::vector<Tensor> backward_with_bias(const Tensor& x, const Tensor& weight, const Tensor& grad, int stride,
                                       bool needs_dx) {
  std::vector<Tensor> gradients = backward(x, weight, grad, stride, needs_dx);
  gradients.push_back(gradient_of_bias(grad));
  return gradients;
}

std::vector<Shape> shape_of_y(const Shape& x, const Shape& weight, int stride, bool) {
  expect(x.size() == 4 && stride > 0, "a map [N, C, H, W] and a positive stride", x);
  expect(weight.size() == 4, "a weight [K, C, k, k]", weight);
  return {output_shape(x, weight, stride)};
}

std::vector<Shape> shape_of_y_with_bias(const Shape& x, const Shape& weight, const Shape&, int stride,
                                        bool needs_dx) {
  return shape_of_y(x, weight, stride, needs_dx);
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_bfloat16_conv, forward, backward, PD_INFER_SHAPE(paddle_attn::shape_of_y),
               {"X", "Weight"}, {"stride: int", "needs_dx: bool"});
FUSED_OPERATOR(paddle_attn_bfloat16_conv_bias, forward_with_bias, backward_with_bias,
               PD_INFER_SHAPE(paddle_attn::shape_of_y_with_bias), {"X", "Weight", "Bias"},
               {"stride: int", "needs_dx: bool"}, {}, {}, {"Bias"});
