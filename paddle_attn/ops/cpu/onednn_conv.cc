// The convolution with odd kernel sides that keeps the size of a map, or halves it with stride 2, by oneDNN:
//   paddle_attn_onednn_conv(x [N, C, H, W], weight [K, C / groups, h, w], stride, dilation, needs_dx)
//     -> y [N, K, H', W']
//   paddle_attn_onednn_conv_bias(x, weight, bias [K], stride, dilation, needs_dx) -> y
//   the padding is dilation (h - 1) / 2 and dilation (w - 1) / 2; H' = ceil(H / stride), W' likewise;
//   without needs_dx the gradient of x is zero
//   paddle_attn_bfloat16_conv, paddle_attn_bfloat16_conv_bias: the same; x, the weight and the gradient of y
//   are rounded to bfloat16, products are added in float32, and the results are float32
//
// A 1x1 convolution with stride 2 is one of every second row and column of x. A 1x1 convolution of a map that
// is not tiny is a matrix product for each image, in the order of Paddle. Otherwise oneDNN multiplies channels
// that adjoin in memory: x, y and their gradients are copied to that order and back.
#include "onednn.h"

#include <map>

namespace paddle_attn {
namespace {

using namespace onednn;

constexpr size_t kMaxOperators = 1000;  // that a thread keeps: all of some networks
constexpr Index kTinyMap = 64;          // places; the weight's gradient would be more than the map
constexpr Index kSums = 1 << 24;        // floats of the weight's gradients of some images

enum Purpose { kForward, kOfX, kOfWeight };  // the output, or a gradient

struct Geometry {
  Index batch, channels, height, width, filters, rows, columns, groups, stride, dilation;
  bool bias;
  Type type;  // of the factors

  Geometry(const Tensor& x, const Tensor& weight, const Tensor* bias, int stride, int dilation, Type type)
      : stride(stride), dilation(dilation), bias(bias), type(type) {
    expect_map(x);
    batch = x.shape()[0], channels = x.shape()[1], height = x.shape()[2], width = x.shape()[3];
    const Shape found = weight.shape();
    expect(found.size() == 4 && found[0] > 0 && found[1] > 0 && found[2] % 2 == 1 && found[3] % 2 == 1,
           "a weight [K, C / groups, h, w] with odd h and w", found);
    filters = found[0], rows = found[2], columns = found[3], groups = std::max<Index>(channels / found[1], 1);
    expect(filters % groups == 0, "a number of groups that divides the filters", {filters, groups});
    expect_tensor(weight, {filters, groups * found[1] == channels ? found[1] : channels, rows, columns},
                  "a weight");
    if (bias) expect_tensor(*bias, {filters}, "a bias");
    expect(stride == 1 || stride == 2, "a stride of 1 or 2", {stride});
    expect(dilation > 0, "a positive dilation", {dilation});
    // with one column of outputs the bfloat16 of oneDNN 3.6 computes with memory that is not initialised
    if (stride == 2 && width <= 2) this->type = kFloat32;
  }

  bool is_product() const {
    return rows == 1 && columns == 1 && groups == 1 && stride == 1 && !bias && height * width > kTinyMap;
  }

  Geometry of_images(Index images) const {
    Geometry part = *this;
    part.batch = images;
    return part;
  }

  Shape x() const { return {batch, channels, height, width}; }
  Shape w() const {
    if (groups == 1) return {filters, channels, rows, columns};
    return {groups, filters / groups, channels / groups, rows, columns};
  }
  Shape b() const { return {filters}; }
  Shape y() const { return {batch, filters, (height + stride - 1) / stride, (width + stride - 1) / stride}; }
  Shape key(Purpose purpose) const {  // a primitive is made for a number of threads too
    return {batch,  channels, height,   width, filters, rows,    columns,
            groups, stride,   dilation, bias,  type,    purpose, omp_get_max_threads()};
  }
};

Operator make_product(Layout a, Layout b, Layout of_a, Layout of_b, const Shape& product) {
  void* created;
  const Layout sum = row_major(product);
  expect_success(
      dnnl_matmul_primitive_desc_create(&created, engine(), a.get(), b.get(), nullptr, sum.get(), nullptr),
      "plan a product");
  Operator found{Plan(created)};
  found.with(kLeft, std::move(of_a)).with(kRight, std::move(of_b)).with(kProduct, row_major(product));
  return found;
}

// y = weight x [N, K, HW], dx = weight' dy [N, C, HW], dweight = dy x' of each image [N, K, C]
Operator make_product(const Geometry& g, Purpose purpose) {
  const Index n = g.batch, c = g.channels, k = g.filters, places = g.height * g.width;
  const auto weight = [&](Type type) { return row_major({1, k, c}, type); };
  const auto weight_t = [&](Type type) { return layout({1, c, k}, {c * k, 1, c}, type); };
  const auto x = [&](Type type) { return row_major({n, c, places}, type); };
  const auto x_t = [&](Type type) { return layout({n, places, c}, {c * places, 1, places}, type); };
  const auto y = [&](Type type) { return row_major({n, k, places}, type); };
  if (purpose == kForward)
    return make_product(weight(g.type), x(g.type), weight(kFloat32), x(kFloat32), {n, k, places});
  if (purpose == kOfX)
    return make_product(weight_t(g.type), y(g.type), weight_t(kFloat32), y(kFloat32), {n, c, places});
  return make_product(y(g.type), x_t(g.type), y(kFloat32), x_t(kFloat32), {n, k, c});
}

Operator make_convolution(const Geometry& g, Purpose purpose) {
  const Layout x = preferred(g.x(), g.type), w = preferred(g.w(), g.type), y = preferred(g.y(), g.type);
  const Layout sum_x = preferred(g.x(), kFloat32), sum_w = preferred(g.w(), kFloat32),
               sum_y = preferred(g.y(), kFloat32), b = g.bias ? preferred(g.b(), kFloat32) : nullptr;
  const dnnl_dims strides = {g.stride, g.stride}, dilations = {g.dilation - 1, g.dilation - 1},
                  padding = {g.dilation * (g.rows / 2), g.dilation * (g.columns / 2)};
  void* created;
  expect_success(dnnl_convolution_forward_primitive_desc_create(
                     &created, engine(), kForTraining, kDirect, x.get(), w.get(), b.get(), sum_y.get(),
                     strides, dilations, padding, padding, nullptr),
                 "plan a convolution");
  Plan forward(created);
  if (purpose == kForward) {
    Operator found(std::move(forward));
    found.with(kX, row_major(g.x())).with(kWeight, row_major(g.w())).with(kY, row_major(g.y()));
    if (g.bias) found.with(kBias, row_major(g.b()));
    return found;
  }
  if (purpose == kOfX) {
    expect_success(dnnl_convolution_backward_data_primitive_desc_create(
                       &created, engine(), kDirect, sum_x.get(), w.get(), y.get(), strides, dilations,
                       padding, padding, forward.get(), nullptr),
                   "plan a gradient");
    Operator found{Plan(created)};
    found.with(kWeight, row_major(g.w())).with(kDy, row_major(g.y())).with(kDx, row_major(g.x()));
    return found;
  }
  expect_success(dnnl_convolution_backward_weights_primitive_desc_create(
                     &created, engine(), kDirect, x.get(), sum_w.get(), b.get(), y.get(), strides, dilations,
                     padding, padding, forward.get(), nullptr),
                 "plan a gradient");
  Operator found{Plan(created)};
  found.with(kDy, row_major(g.y())).with(kX, row_major(g.x())).with(kDweight, row_major(g.w()));
  if (g.bias) found.with(kDbias, row_major(g.b()));
  return found;
}

using Operators = std::map<Shape, Operator>;

// Those of this thread: planning takes longer than a small convolution, and a primitive must not run in two
// threads at once
Operators& operators() {
  thread_local Operators known;
  if (known.size() > kMaxOperators) known.clear();
  return known;
}

const Operator& operator_for(const Geometry& g, Purpose purpose, Operators& known) {
  const Shape key = g.key(purpose);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  Operator made = g.is_product() ? make_product(g, purpose) : make_convolution(g, purpose);
  return known.emplace(key, std::move(made)).first->second;
}

// Every second row and column
Tensor thin(const Tensor& x) {
  const Index planes = x.shape()[0] * x.shape()[1], height = x.shape()[2], width = x.shape()[3];
  const Index rows = (height + 1) / 2, columns = (width + 1) / 2;
  Tensor thinned = paddle::empty({x.shape()[0], x.shape()[1], rows, columns}, x.dtype(), x.place());
  const float* from = x.data<float>();
  float* to = thinned.data<float>();
#pragma omp parallel for
  for (Index k = 0; k < planes * rows; ++k) {
    const float* row = from + (k / rows * height + k % rows * 2) * width;
#pragma omp simd
    for (Index j = 0; j < columns; ++j) to[k * columns + j] = row[2 * j];
  }
  return thinned;
}

// The gradient of x from that of thin(x)
Tensor spread(const Tensor& gradient, const Tensor& x) {
  const Index planes = x.shape()[0] * x.shape()[1], height = x.shape()[2], width = x.shape()[3];
  const Index rows = (height + 1) / 2, columns = (width + 1) / 2;
  Tensor dx = paddle::empty_like(x);
  const float* from = gradient.data<float>();
  float* to = dx.data<float>();
#pragma omp parallel for
  for (Index k = 0; k < planes * rows; ++k) {
    const Index row = k % rows * 2;
    float* out = to + (k / rows * height + row) * width;
#pragma omp simd
    for (Index j = 0; j < width / 2; ++j) out[2 * j] = from[k * columns + j], out[2 * j + 1] = 0.0f;
    if (width % 2) out[width - 1] = from[k * columns + columns - 1];
    if (row + 1 < height) std::fill(out + width, out + 2 * width, 0.0f);
  }
  return dx;
}

bool is_thinned(const Geometry& g) { return g.rows == 1 && g.columns == 1 && g.stride == 2; }

template <Type type>
Tensor convolution(const Tensor& x, const Tensor& weight, const Tensor* bias, int stride, int dilation) {
  const Geometry g(x, weight, bias, stride, dilation, type);
  if (is_thinned(g)) return convolution<type>(thin(x), weight, bias, 1, dilation);
  Tensor y = paddle::empty(g.y(), x.dtype(), x.place());
  std::vector<const float*> tensors = {x.data<float>(), weight.data<float>(), y.data<float>()};
  if (g.is_product()) std::swap(tensors[0], tensors[1]);
  if (bias) tensors.push_back(bias->data<float>());
  Copies copies;
  operator_for(g, kForward, operators()).run(tensors, copies);
  return y;
}

// The weight's gradient of a product: the sum over the images, a number of them at a time
void gradient_of_product(const Geometry& g, const float* x, const float* dy, Operators& known, Copies& copies,
                         float* dw) {
  const Index size = g.filters * g.channels, places = g.height * g.width;
  const Index at_once = std::clamp<Index>(kSums / size, 1, g.batch);
  const Scratch sums(at_once * size, 1);
  for (Index n = 0; n < g.batch; n += at_once) {
    const Index images = std::min(at_once, g.batch - n);
    operator_for(g.of_images(images), kOfWeight, known)
        .run({dy + n * g.filters * places, x + n * g.channels * places, sums.part(0)}, copies);
#pragma omp parallel for
    for (Index first = 0; first < size; first += kStretch) {
      const Index count = std::min(kStretch, size - first);
      if (n == 0) std::fill(dw + first, dw + first + count, 0.0f);
      for (Index image = 0; image < images; ++image) {
        const float* from = sums.part(0) + image * size + first;
#pragma omp simd
        for (Index i = 0; i < count; ++i) dw[first + i] += from[i];
      }
    }
  }
}

template <Type type>
std::vector<Tensor> gradients(const Tensor& x, const Tensor& weight, const Tensor* bias, const Tensor& grad,
                              int stride, int dilation, bool needs_dx) {
  const Geometry g(x, weight, bias, stride, dilation, type);
  expect_gradient(grad, g.y());
  if (is_thinned(g)) {
    std::vector<Tensor> found = gradients<type>(thin(x), weight, bias, grad, 1, dilation, needs_dx);
    found[0] = spread(found[0], x);
    return found;
  }
  std::vector<Tensor> found = {paddle::empty_like(x), paddle::empty_like(weight)};
  const float *from = x.data<float>(), *w = weight.data<float>(), *dy = grad.data<float>();
  float *dx = found[0].data<float>(), *dw = found[1].data<float>();
  Operators& known = operators();
  Copies copies;  // its layouts are those of the operators
  if (g.is_product()) {
    gradient_of_product(g, from, dy, known, copies, dw);
  } else {
    std::vector<const float*> tensors = {dy, from, dw};
    if (bias) {
      found.push_back(paddle::empty_like(*bias));
      tensors.push_back(found.back().data<float>());
    }
    operator_for(g, kOfWeight, known).run(tensors, copies);
  }
  if (needs_dx)
    operator_for(g, kOfX, known).run({w, dy, dx}, copies);
  else
    std::fill(dx, dx + x.numel(), 0.0f);
  return found;
}

template <Type type>
std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, int stride, int dilation, bool) {
  return {convolution<type>(x, weight, nullptr, stride, dilation)};
}

template <Type type>
std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& grad, int stride,
                             int dilation, bool needs_dx) {
  return gradients<type>(x, weight, nullptr, grad, stride, dilation, needs_dx);
}

template <Type type>
std::vector<Tensor> forward_with_bias(const Tensor& x, const Tensor& weight, const Tensor& bias, int stride,
                                      int dilation, bool) {
  return {convolution<type>(x, weight, &bias, stride, dilation)};
}

template <Type type>
std::vector<Tensor> backward_with_bias(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                       const Tensor& grad, int stride, int dilation, bool needs_dx) {
  return gradients<type>(x, weight, &bias, grad, stride, dilation, needs_dx);
}

std::vector<Shape> shape_of_y(const Shape& x, const Shape& weight, int stride, int, bool) {
  expect(x.size() == 4 && stride > 0, "a map [N, C, H, W] and a positive stride", x);
  expect(weight.size() == 4, "a weight [K, C / groups, h, w]", weight);
  return {{x[0], weight[0], (x[2] + stride - 1) / stride, (x[3] + stride - 1) / stride}};
}

std::vector<Shape> shape_of_y_with_bias(const Shape& x, const Shape& weight, const Shape&, int stride,
                                        int dilation, bool needs_dx) {
  return shape_of_y(x, weight, stride, dilation, needs_dx);
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_onednn_conv, forward<paddle_attn::kFloat32>, backward<paddle_attn::kFloat32>,
               PD_INFER_SHAPE(paddle_attn::shape_of_y), {"X", "Weight"},
               {"stride: int", "dilation: int", "needs_dx: bool"});
FUSED_OPERATOR(paddle_attn_onednn_conv_bias, forward_with_bias<paddle_attn::kFloat32>,
               backward_with_bias<paddle_attn::kFloat32>, PD_INFER_SHAPE(paddle_attn::shape_of_y_with_bias),
               {"X", "Weight", "Bias"}, {"stride: int", "dilation: int", "needs_dx: bool"});
FUSED_OPERATOR(paddle_attn_bfloat16_conv, forward<paddle_attn::kBfloat16>, backward<paddle_attn::kBfloat16>,
               PD_INFER_SHAPE(paddle_attn::shape_of_y), {"X", "Weight"},
               {"stride: int", "dilation: int", "needs_dx: bool"});
FUSED_OPERATOR(paddle_attn_bfloat16_conv_bias, forward_with_bias<paddle_attn::kBfloat16>,
               backward_with_bias<paddle_attn::kBfloat16>, PD_INFER_SHAPE(paddle_attn::shape_of_y_with_bias),
               {"X", "Weight", "Bias"}, {"stride: int", "dilation: int", "needs_dx: bool"});
