// Registers fused operators with Paddle: the operator, its gradient, and an error in place of its second
// derivative.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "paddle/phi/api/all.h"

namespace paddle_attn {

using paddle::Tensor;
using Shape = std::vector<int64_t>;
using Names = std::vector<std::string>;
using Dtypes = std::vector<paddle::DataType>;

// The tensors and attributes of an operator. Its outputs are Y and what it computes only for backward.
struct Signature {
  Names inputs;           // every input receives a gradient
  Names attributes = {};  // "name: type"
  Names saved = {};       // the outputs that backward reads: Y or not, then those besides Y
  Names buffers = {};     // further inputs, which forward changes in place; without a gradient
  Names unread = {};      // the inputs that backward does not read
  Names also = {};        // the saved outputs that receive a gradient, like Y

  Names of_forward() const {
    Names names = inputs;
    names.insert(names.end(), buffers.begin(), buffers.end());
    return names;
  }

  Names outputs() const {
    Names names = {"Y"};
    std::copy_if(saved.begin(), saved.end(), std::back_inserter(names),
                 [](const std::string& name) { return name != "Y"; });
    return names;
  }

  // What backward receives: the inputs that it reads, the saved outputs, the gradient of Y.
  Names of_backward() const {
    Names names;
    std::copy_if(inputs.begin(), inputs.end(), std::back_inserter(names), [&](const std::string& name) {
      return std::find(unread.begin(), unread.end(), name) == unread.end();
    });
    names.insert(names.end(), saved.begin(), saved.end());
    names.push_back(paddle::Grad("Y"));
    for (const std::string& output : also) names.push_back(paddle::Grad(output));
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

// Registered as the second derivative of every operator. Without it Paddle would silently omit that term.
inline void no_second_derivative(paddle::CustomOpKernelContext*) {
  PD_THROW(
      "paddle_attn: fused operators have no second derivative; "
      "set PADDLE_ATTN_OPS=off to use the reference forms, most of which have one");
}

}  // namespace paddle_attn

// FUSED_OPERATOR(name, forward, backward, infer_shape, inputs, attributes, saved, buffers, unread, also),
// outside all namespaces.
//   forward      a function in paddle_attn of (inputs..., buffers..., attributes...) that returns {Y, and the
//                saved outputs besides Y}
//   backward     a function in paddle_attn of (the inputs that it reads..., saved..., the gradients of Y and
//                of the outputs named also..., attributes...) that returns a gradient for each input
//   infer_shape  paddle_attn::shape_of_first_input, or PD_INFER_SHAPE of a function of (the shapes of inputs
//                and buffers..., attributes...) that returns {the shape of each output}
// The last six initialise a Signature; trailing ones can be omitted. All tensors have the first input's
// type.
#define FUSED_OPERATOR(name, forward, backward, infer_shape, ...)                              \
  static const paddle_attn::Signature signature_of_##name{__VA_ARGS__};                        \
  PD_BUILD_OP(name)                                                                            \
      .Inputs(signature_of_##name.of_forward())                                                \
      .Outputs(signature_of_##name.outputs())                                                  \
      .Attrs(paddle_attn::Names(signature_of_##name.attributes))                               \
      .SetKernelFn(PD_KERNEL(paddle_attn::forward))                                            \
      .SetInferShapeFn(infer_shape)                                                            \
      .SetInferDtypeFn([](const paddle_attn::Dtypes& inputs, const std::vector<paddle_attn::Dtypes>&, \
                          const std::vector<paddle::any>&) {                                   \
        return paddle_attn::Dtypes(signature_of_##name.outputs().size(), inputs[0]);           \
      });                                                                                      \
  PD_BUILD_GRAD_OP(name)                                                                       \
      .Inputs(signature_of_##name.of_backward())                                               \
      .Outputs(signature_of_##name.gradients())                                                \
      .Attrs(paddle_attn::Names(signature_of_##name.attributes))                               \
      .SetKernelFn(PD_KERNEL(paddle_attn::backward));                                          \
  PD_BUILD_DOUBLE_GRAD_OP(name)                                                                \
      .Inputs(signature_of_##name.of_double_backward())                                        \
      .Outputs({paddle::Grad(paddle::Grad("Y"))})                                              \
      .Attrs(paddle_attn::Names(signature_of_##name.attributes))                               \
      .SetKernelFn(paddle_attn::no_second_derivative)
