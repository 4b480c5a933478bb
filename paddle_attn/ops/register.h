// Registers fused operators with Paddle: the operator, its gradient, and an error in place of its second
// derivative.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "paddle/phi/api/all.h"

namespace paddle_attn {

using paddle::Tensor;
using Shape = std::vector<int64_t>;
using Names = std::vector<std::string>;

// The tensors and attributes of an operator with one output, Y.
struct Signature {
  Names inputs;           // every input receives a gradient
  Names attributes = {};  // "name: type"
  Names saved = {};       // {"Y"} if backward reads the output, else empty

  // What backward receives: the inputs, the saved output, the gradient of the output.
  Names of_backward() const {
    Names names = inputs;
    names.insert(names.end(), saved.begin(), saved.end());
    names.push_back(paddle::Grad("Y"));
    return names;
  }

  Names gradients() const {
    Names names;
    for (const std::string& input : inputs) names.push_back(paddle::Grad(input));
    return names;
  }

  // What the second derivative receives: what backward receives, and the gradients of the gradients.
  Names of_double_backward() const {
    Names names = of_backward();
    for (const std::string& gradient : gradients()) names.push_back(paddle::Grad(gradient));
    return names;
  }
};

inline std::vector<Shape> shape_of_first_input(const std::vector<Shape>& inputs,
                                               const std::vector<std::vector<Shape>>&,
                                               const std::vector<paddle::any>&) {
  return {inputs[0]};
}

inline std::vector<paddle::DataType> dtype_of_first_input(const std::vector<paddle::DataType>& inputs,
                                                          const std::vector<std::vector<paddle::DataType>>&,
                                                          const std::vector<paddle::any>&) {
  return {inputs[0]};
}

// Registered as the second derivative of every operator. Without it Paddle would silently omit that term.
inline void no_second_derivative(paddle::CustomOpKernelContext*) {
  PD_THROW(
      "paddle_attn: fused operators have no second derivative; "
      "set PADDLE_ATTN_OPS=off to use the reference forms, most of which have one");
}

}  // namespace paddle_attn

// FUSED_OPERATOR(name, forward, backward, infer_shape, inputs, attributes, saved), outside all namespaces.
//   forward      a function in paddle_attn of (inputs..., attributes...) that returns {Y}
//   backward     a function in paddle_attn of (inputs..., saved..., the gradient of Y, attributes...) that
//                returns a gradient for each input
//   infer_shape  paddle_attn::shape_of_first_input, or PD_INFER_SHAPE of a function of (the inputs'
//                shapes..., attributes...) that returns {the shape of Y}
// The last three initialise a Signature. `saved`, or `attributes` and `saved`, can be omitted.
#define FUSED_OPERATOR(name, forward, backward, infer_shape, ...)       \
  static const paddle_attn::Signature signature_of_##name{__VA_ARGS__}; \
  PD_BUILD_OP(name)                                                     \
      .Inputs(paddle_attn::Names(signature_of_##name.inputs))           \
      .Outputs({"Y"})                                                   \
      .Attrs(paddle_attn::Names(signature_of_##name.attributes))        \
      .SetKernelFn(PD_KERNEL(paddle_attn::forward))                     \
      .SetInferShapeFn(infer_shape)                                     \
      .SetInferDtypeFn(paddle_attn::dtype_of_first_input);              \
  PD_BUILD_GRAD_OP(name)                                                \
      .Inputs(signature_of_##name.of_backward())                        \
      .Outputs(signature_of_##name.gradients())                         \
      .Attrs(paddle_attn::Names(signature_of_##name.attributes))        \
      .SetKernelFn(PD_KERNEL(paddle_attn::backward));                   \
  PD_BUILD_DOUBLE_GRAD_OP(name)                                         \
      .Inputs(signature_of_##name.of_double_backward())                 \
      .Outputs({paddle::Grad(paddle::Grad("Y"))})                       \
      .Attrs(paddle_attn::Names(signature_of_##name.attributes))        \
      .SetKernelFn(paddle_attn::no_second_derivative)
