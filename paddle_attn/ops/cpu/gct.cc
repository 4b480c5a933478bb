// Gated channel transformation with the l2 norm, for each image:
//   paddle_attn_gct(x [N, C, H, W], alpha, gamma, beta [1, C, 1, 1], epsilon) -> y [N, C, H, W]
//   r_c = sqrt(sum(x_c^2) + epsilon), e = alpha r, d = sqrt(mean(e^2) + epsilon)
//   y_c = x_c (1 + tanh(gamma_c e_c / d + beta_c))
// Backward saves only the inputs.
#include "common.h"

namespace paddle_attn {
namespace {

// The numbers of the channels of one image
struct Channel {
  float root, embedding, tanh;
};

void expect_inputs(const Tensor& x, const Tensor& alpha, const Tensor& gamma, const Tensor& beta) {
  expect_map(x);
  const Shape shape = {1, x.shape()[1], 1, 1};
  expect_tensor(alpha, shape, "alpha");
  expect_tensor(gamma, shape, "gamma");
  expect_tensor(beta, shape, "beta");
}

// From the roots r of an image: fills `embedding` and `tanh`, returns d.
float compare_channels(Channel* image, const float* alpha, const float* gamma, const float* beta,
                       Index channels, float epsilon) {
  double squares = 0.0;
  for (Index c = 0; c < channels; ++c) {
    const float e = image[c].embedding = alpha[c] * image[c].root;
    squares += static_cast<double>(e) * e;
  }
  const float d = static_cast<float>(std::sqrt(squares / static_cast<double>(channels) + epsilon));
  for (Index c = 0; c < channels; ++c)
    image[c].tanh = std::tanh(image[c].embedding * (gamma[c] / d) + beta[c]);
  return d;
}

float root_of(const float* x, Index size, float epsilon) {
  return std::sqrt(sum_of(size,
                          [=](Index i, auto count) {
                            const Vector v = load(x + i, count);
                            return v * v;
                          }) +
                   epsilon);
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& alpha, const Tensor& gamma, const Tensor& beta,
                            float epsilon) {
  expect_inputs(x, alpha, gamma, beta);
  Tensor y = paddle::empty_like(x);
  const Index batch = x.shape()[0], channels = x.shape()[1], size = x.shape()[2] * x.shape()[3];
  const float* from = x.data<float>();
  float* to = y.data<float>();
  std::vector<Channel> numbers(batch * channels);
#pragma omp parallel
  {
#pragma omp for
    for (Index p = 0; p < batch * channels; ++p) numbers[p].root = root_of(from + p * size, size, epsilon);
#pragma omp for
    for (Index n = 0; n < batch; ++n)
      compare_channels(&numbers[n * channels], alpha.data<float>(), gamma.data<float>(), beta.data<float>(),
                       channels, epsilon);
#pragma omp for
    for (Index p = 0; p < batch * channels; ++p) {
      const float *row = from + p * size, gate = 1.0f + numbers[p].tanh;
      float* out = to + p * size;
      for_each_vector(size, [=](Index i, auto count) { store(load(row + i, count) * gate, out + i, count); });
    }
  }
  return {y};
}

// With the gradient g of y, G = sum(g x), t the tanh and q = G (1 - t^2) gamma, of each channel:
//   dbeta = G (1 - t^2), dgamma = dbeta e / d, de = q / d - e sum(q e) / (C d^3), dalpha = de r
//   dx = g (1 + t) + x de alpha / r
std::vector<Tensor> backward(const Tensor& x, const Tensor& alpha, const Tensor& gamma, const Tensor& beta,
                             const Tensor& grad, float epsilon) {
  expect_inputs(x, alpha, gamma, beta);
  expect_gradient(grad, x.shape());
  Tensor dx = paddle::empty_like(x), dalpha = paddle::empty_like(alpha), dgamma = paddle::empty_like(gamma),
         dbeta = paddle::empty_like(beta);
  const Index batch = x.shape()[0], channels = x.shape()[1], size = x.shape()[2] * x.shape()[3];
  const float *from = x.data<float>(), *g = grad.data<float>();
  const float *a = alpha.data<float>(), *c_gamma = gamma.data<float>();
  float* to = dx.data<float>();
  std::vector<Channel> numbers(batch * channels);
  // of each plane: G, then the gradient of beta; those of gamma and alpha; the factor of x in dx
  std::vector<float> by_beta(batch * channels), by_gamma(by_beta), by_alpha(by_beta), by_x(by_beta);
#pragma omp parallel
  {
#pragma omp for
    for (Index p = 0; p < batch * channels; ++p) {
      const float *row = from + p * size, *gradient = g + p * size;
      numbers[p].root = root_of(row, size, epsilon);
      by_beta[p] =
          sum_of(size, [=](Index i, auto count) { return load(row + i, count) * load(gradient + i, count); });
    }
#pragma omp for
    for (Index n = 0; n < batch; ++n) {
      const Index first = n * channels;
      Channel* image = &numbers[first];
      const float d = compare_channels(image, a, c_gamma, beta.data<float>(), channels, epsilon);
      double product = 0.0;  // sum(q e)
      for (Index c = 0; c < channels; ++c) {
        const float t = image[c].tanh, v = by_beta[first + c] *= 1.0f - t * t;
        by_gamma[first + c] = v * image[c].embedding / d;
        product += static_cast<double>(v) * c_gamma[c] * image[c].embedding;
      }
      const double cube = static_cast<double>(d) * d * d;
      const float shared = static_cast<float>(product / (static_cast<double>(channels) * cube));
      for (Index c = 0; c < channels; ++c) {
        const float de = by_beta[first + c] * c_gamma[c] / d - image[c].embedding * shared;
        by_alpha[first + c] = de * image[c].root;
        by_x[first + c] = de * a[c] / image[c].root;
      }
    }
#pragma omp for
    for (Index p = 0; p < batch * channels; ++p) {
      const float *row = from + p * size, *gradient = g + p * size;
      const float gate = 1.0f + numbers[p].tanh, factor = by_x[p];
      float* out = to + p * size;
      for_each_vector(size, [=](Index i, auto count) {
        store(load(gradient + i, count) * gate + load(row + i, count) * factor, out + i, count);
      });
    }
  }
  for (Index c = 0; c < channels; ++c) {
    double of_alpha = 0.0, of_gamma = 0.0, of_beta = 0.0;
    for (Index p = c; p < batch * channels; p += channels)
      of_alpha += by_alpha[p], of_gamma += by_gamma[p], of_beta += by_beta[p];
    dalpha.data<float>()[c] = static_cast<float>(of_alpha);
    dgamma.data<float>()[c] = static_cast<float>(of_gamma);
    dbeta.data<float>()[c] = static_cast<float>(of_beta);
  }
  return {dx, dalpha, dgamma, dbeta};
}

}  // namespace
}  // namespace paddle_attn

FUSED_OPERATOR(paddle_attn_gct, forward, backward, paddle_attn::shape_of_first_input,
               {"X", "Alpha", "Gamma", "Beta"}, {"epsilon: float"});
