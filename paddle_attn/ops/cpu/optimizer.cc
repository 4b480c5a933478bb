// The optimisers' updates of all parameters in one pass, in place:
//   paddle_attn_momentum(parameters, gradients, velocities, rates, decays, momentum, clip_norm) -> norm [1]
//   paddle_attn_adam(parameters, gradients, moments1, moments2, beta1_pows [1], beta2_pows [1], rates,
//                    decays, shrinks, beta1, beta2, epsilon, clip_norm) -> norm [1]
// rates, decays and shrinks have one number for each parameter: its learning rate, its L2 coefficient
// (added to the gradient), its decoupled weight decay (AdamW's). With clip_norm > 0 the gradients are first
// multiplied by clip_norm / max(norm, clip_norm), where norm is that of all gradients together; else norm
// is 0. The formulas are those of Paddle's optimisers. Gradients are read and never written.
#include "common.h"

// A product is rounded before it is added, except in multiply_add: the results are those of Paddle, bit for
// bit, except for the norm, whose sums Paddle rounds more.
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

namespace paddle_attn {
namespace {

using Tensors = std::vector<Tensor>;
using Floats = std::vector<float>;

constexpr Index kBlock = 1 << 14;  // elements that a thread updates at a time: they stay in its cache

// A part of one parameter.
struct Block {
  size_t parameter;
  Index begin, size;
};

std::vector<Block> blocks_of(const Tensors& parameters) {
  std::vector<Block> blocks;
  for (size_t i = 0; i < parameters.size(); ++i)
    for (Index begin = 0, size = parameters[i].numel(); begin < size; begin += kBlock)
      blocks.push_back({i, begin, std::min(kBlock, size - begin)});
  return blocks;
}

void expect_numbers(const Floats& numbers, const Tensors& parameters, const char* name) {
  if (numbers.size() != parameters.size())
    PD_THROW("paddle_attn: expected ", parameters.size(), " ", name, ", found ", numbers.size());
}

// Their addresses; each has the shape of its parameter.
std::vector<float*> addresses(const Tensors& tensors, const Tensors& parameters,
                              const std::string& name) {
  if (tensors.size() != parameters.size())
    PD_THROW("paddle_attn: expected ", parameters.size(), " tensors, each a ", name,
             ", found ", tensors.size());
  std::vector<float*> result;
  for (size_t i = 0; i < tensors.size(); ++i) {
    expect_tensor(tensors[i], parameters[i].shape(), ("a " + name).c_str());
    result.push_back(const_cast<float*>(tensors[i].data<float>()));
  }
  return result;
}

// The norm of all gradients. Sums are in double, by blocks: they do not depend on the number of threads.
float global_norm(const std::vector<float*>& gradients, const std::vector<Block>& blocks) {
  std::vector<double> squares(blocks.size());
#pragma omp parallel for
  for (size_t b = 0; b < blocks.size(); ++b) {
    const float* g = gradients[blocks[b].parameter] + blocks[b].begin;
    double total = 0.0;
#pragma omp simd reduction(+ : total)
    for (Index i = 0; i < blocks[b].size; ++i) total += static_cast<double>(g[i]) * g[i];
    squares[b] = total;
  }
  double total = 0.0;
  for (double square : squares) total += square;
  return static_cast<float>(std::sqrt(total));
}

struct Clip {
  float norm, factor;  // the gradients are multiplied by factor
};

Clip clip(const std::vector<float*>& gradients, const std::vector<Block>& blocks, float clip_norm) {
  if (!(clip_norm > 0.0f)) return {0.0f, 1.0f};
  const float norm = global_norm(gradients, blocks);
  return {norm, norm <= clip_norm ? 1.0f : clip_norm / norm};  // NaN gives NaN
}

Tensor scalar(float value) {
  Tensor result = paddle::empty({1}, paddle::DataType::FLOAT32, paddle::CPUPlace());
  *result.data<float>() = value;
  return result;
}

void momentum_block(float* p, const float* g, float* v, Index size, float rate, float decay, float momentum,
                    float factor) {
#pragma omp simd
  for (Index i = 0; i < size; ++i) {
    v[i] = v[i] * momentum + (p[i] * decay + g[i] * factor);
    p[i] -= rate * v[i];
  }
}

std::vector<Tensor> momentum(const Tensors& parameters, const Tensors& gradients, const Tensors& velocities,
                             const Floats& rates, const Floats& decays, float momentum, float clip_norm) {
  const auto p = addresses(parameters, parameters, "parameter");
  const auto g = addresses(gradients, parameters, "gradient");
  const auto v = addresses(velocities, parameters, "velocity");
  expect_numbers(rates, parameters, "rates");
  expect_numbers(decays, parameters, "decays");
  const auto blocks = blocks_of(parameters);
  const auto [norm, factor] = clip(g, blocks, clip_norm);
#pragma omp parallel for
  for (size_t b = 0; b < blocks.size(); ++b) {
    const auto [i, begin, size] = blocks[b];
    momentum_block(p[i] + begin, g[i] + begin, v[i] + begin, size, rates[i], decays[i], momentum, factor);
  }
  return {scalar(norm)};
}

// a b + c
inline float multiply_add(float a, float b, float c) {
#ifdef __FMA__
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// What is the same for all elements of a parameter in an update of Adam.
struct AdamRates {
  float step, epsilon, decay, shrink;
};

void adam_block(float* p, const float* g, float* m1, float* m2, Index size, const AdamRates& rates,
                float beta1, float beta2, float factor) {
  const auto [step, epsilon, decay, shrink] = rates;
#pragma omp simd
  for (Index i = 0; i < size; ++i) {
    const float gradient = g[i] * factor + p[i] * decay;
    m1[i] = multiply_add(beta1, m1[i], (1.0f - beta1) * gradient);
    m2[i] = multiply_add(beta2, m2[i], (1.0f - beta2) * (gradient * gradient));
    p[i] = multiply_add(-step, m1[i] / (std::sqrt(m2[i]) + epsilon), multiply_add(-shrink, p[i], p[i]));
  }
}

std::vector<Tensor> adam(const Tensors& parameters, const Tensors& gradients, const Tensors& moments1,
                         const Tensors& moments2, const Tensors& beta1_pows, const Tensors& beta2_pows,
                         const Floats& rates, const Floats& decays, const Floats& shrinks, float beta1,
                         float beta2, float epsilon, float clip_norm) {
  const auto p = addresses(parameters, parameters, "parameter");
  const auto g = addresses(gradients, parameters, "gradient");
  const auto m1 = addresses(moments1, parameters, "first moment");
  const auto m2 = addresses(moments2, parameters, "second moment");
  const Tensors ones(parameters.size(), scalar(1.0f));
  const auto pow1 = addresses(beta1_pows, ones, "power of beta 1");
  const auto pow2 = addresses(beta2_pows, ones, "power of beta 2");
  expect_numbers(rates, parameters, "rates");
  expect_numbers(decays, parameters, "decays");
  expect_numbers(shrinks, parameters, "shrinks");
  std::vector<AdamRates> of_parameter;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const float root = std::sqrt(1.0f - *pow2[i]);
    of_parameter.push_back(
        {rates[i] * (root / (1.0f - *pow1[i])), epsilon * root, decays[i], rates[i] * shrinks[i]});
    *pow1[i] *= beta1;
    *pow2[i] *= beta2;
  }
  const auto blocks = blocks_of(parameters);
  const auto [norm, factor] = clip(g, blocks, clip_norm);
#pragma omp parallel for
  for (size_t b = 0; b < blocks.size(); ++b) {
    const auto [i, begin, size] = blocks[b];
    adam_block(p[i] + begin, g[i] + begin, m1[i] + begin, m2[i] + begin, size, of_parameter[i], beta1, beta2,
               factor);
  }
  return {scalar(norm)};
}

std::vector<Shape> shape_of_norm(const std::vector<Shape>&, const std::vector<std::vector<Shape>>&,
                                 const std::vector<paddle::any>&) {
  return {{1}};
}

Dtypes type_of_norm(const Dtypes&, const std::vector<Dtypes>&, const std::vector<paddle::any>&) {
  return {paddle::DataType::FLOAT32};
}

}  // namespace
}  // namespace paddle_attn

using paddle::Vec;

PD_BUILD_OP(paddle_attn_momentum)
    .Inputs({Vec("Parameters"), Vec("Gradients"), Vec("Velocities")})
    .Outputs({"Norm"})
    .Attrs({"rates: std::vector<float>", "decays: std::vector<float>", "momentum: float", "clip_norm: float"})
    .SetKernelFn(PD_KERNEL(paddle_attn::momentum))
    .SetInferShapeFn(paddle_attn::shape_of_norm)
    .SetInferDtypeFn(paddle_attn::type_of_norm);

PD_BUILD_OP(paddle_attn_adam)
    .Inputs({Vec("Parameters"), Vec("Gradients"), Vec("Moments1"), Vec("Moments2"), Vec("Beta1Pows"),
             Vec("Beta2Pows")})
    .Outputs({"Norm"})
    .Attrs({"rates: std::vector<float>", "decays: std::vector<float>", "shrinks: std::vector<float>",
            "beta1: float", "beta2: float", "epsilon: float", "clip_norm: float"})
    .SetKernelFn(PD_KERNEL(paddle_attn::adam))
    .SetInferShapeFn(paddle_attn::shape_of_norm)
    .SetInferDtypeFn(paddle_attn::type_of_norm);
