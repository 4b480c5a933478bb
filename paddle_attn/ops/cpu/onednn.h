// oneDNN, a library of convolutions and matrix products that Paddle brings along: what is used of its C
// interface, version 3. Paddle's headers lack it, so it is declared here. Where the library lacks one of these
// functions, the operators do not load. oneDNN compiles its code for the processor, AMX included.
#pragma once

#include "common.h"

extern "C" {
using dnnl_dims = int64_t[12];
struct dnnl_argument {
  int number;
  void* memory;
};
struct dnnl_release {
  int major, minor, patch;
};
const dnnl_release* dnnl_version();
int dnnl_engine_create(void** engine, int kind, size_t index);
int dnnl_stream_create(void** stream, void* engine, unsigned flags);
int dnnl_stream_wait(void* stream);
int dnnl_memory_desc_create_with_strides(void** layout, int rank, const dnnl_dims sizes, int type,
                                         const dnnl_dims strides);
int dnnl_memory_desc_create_with_tag(void** layout, int rank, const dnnl_dims sizes, int type, int tag);
int dnnl_memory_desc_destroy(void* layout);
int dnnl_memory_desc_equal(const void* one, const void* other);
size_t dnnl_memory_desc_get_size(const void* layout);
int dnnl_memory_create(void** memory, const void* layout, void* engine, void* data);
int dnnl_memory_destroy(void* memory);
int dnnl_convolution_forward_primitive_desc_create(void** plan, void* engine, int purpose, int algorithm,
                                                   const void* x, const void* weight, const void* bias,
                                                   const void* y, const dnnl_dims strides,
                                                   const dnnl_dims dilations, const dnnl_dims before,
                                                   const dnnl_dims after, const void* options);
int dnnl_convolution_backward_data_primitive_desc_create(void** plan, void* engine, int algorithm,
                                                         const void* dx, const void* weight, const void* dy,
                                                         const dnnl_dims strides, const dnnl_dims dilations,
                                                         const dnnl_dims before, const dnnl_dims after,
                                                         const void* forward, const void* options);
int dnnl_convolution_backward_weights_primitive_desc_create(
    void** plan, void* engine, int algorithm, const void* x, const void* dweight, const void* dbias,
    const void* dy, const dnnl_dims strides, const dnnl_dims dilations, const dnnl_dims before,
    const dnnl_dims after, const void* forward, const void* options);
int dnnl_matmul_primitive_desc_create(void** plan, void* engine, const void* a, const void* b,
                                      const void* bias, const void* product, const void* options);
int dnnl_reorder_primitive_desc_create(void** plan, const void* from, void* from_engine, const void* to,
                                       void* to_engine, const void* options);
const void* dnnl_primitive_desc_query_md(const void* plan, int what, int index);
int dnnl_primitive_desc_destroy(void* plan);
int dnnl_primitive_create(void** primitive, const void* plan);
int dnnl_primitive_execute(const void* primitive, void* stream, int count, const dnnl_argument* arguments);
int dnnl_primitive_destroy(void* primitive);
}

namespace paddle_attn::onednn {

constexpr int kCpu = 1, kInOrder = 1, kAnyLayout = 1, kForTraining = 64, kDirect = 1, kOfArgument = 255;
enum Type { kBfloat16 = 2, kFloat32 = 3 };
enum Argument {  // of a primitive
  kX = 1,
  kY = 17,
  kWeight = 33,
  kBias = 41,
  kDx = 129,
  kDy = 145,
  kDweight = 161,
  kDbias = 169,
  kFrom = kX,
  kTo = kY,
  kLeft = kX,
  kRight = kWeight,
  kProduct = kY,
};

inline void expect_success(int status, const char* what) {
  if (status) PD_THROW("paddle_attn: oneDNN cannot ", what, ", it returns the status ", status);
}

template <int (*destroy)(void*)>
struct Destroy {
  void operator()(void* object) const { destroy(object); }
};
using Layout = std::unique_ptr<void, Destroy<dnnl_memory_desc_destroy>>;
using Memory = std::unique_ptr<void, Destroy<dnnl_memory_destroy>>;
using Plan = std::unique_ptr<void, Destroy<dnnl_primitive_desc_destroy>>;
using Primitive = std::unique_ptr<void, Destroy<dnnl_primitive_destroy>>;

inline void* engine() {
  static void* const engine = [] {
    const int version = dnnl_version()->major;
    if (version != 3) PD_THROW("paddle_attn: expected oneDNN 3 inside Paddle, found version ", version);
    void* created;
    expect_success(dnnl_engine_create(&created, kCpu, 0), "start");
    return created;
  }();
  return engine;
}

inline void* stream() {  // of this thread
  thread_local void* const stream = [] {
    void* created;
    expect_success(dnnl_stream_create(&created, engine(), kInOrder), "start");
    return created;
  }();
  return stream;
}

// An order of elements in memory
inline Layout layout(const Shape& shape, const Shape& strides, Type type) {
  dnnl_dims sizes, steps;
  std::copy(shape.begin(), shape.end(), sizes);
  std::copy(strides.begin(), strides.end(), steps);
  void* created;
  expect_success(
      dnnl_memory_desc_create_with_strides(&created, static_cast<int>(shape.size()), sizes, type, steps),
      "describe a tensor");
  return Layout(created);
}

// The order of Paddle
inline Layout row_major(const Shape& shape, Type type = kFloat32) {
  Shape strides(shape.size(), 1);
  for (size_t i = shape.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * shape[i];
  return layout(shape, strides, type);
}

// The order that oneDNN prefers
inline Layout preferred(const Shape& shape, Type type) {
  dnnl_dims sizes;
  std::copy(shape.begin(), shape.end(), sizes);
  void* created;
  expect_success(
      dnnl_memory_desc_create_with_tag(&created, static_cast<int>(shape.size()), sizes, type, kAnyLayout),
      "describe a tensor");
  return Layout(created);
}

inline Memory memory(const void* layout, const void* data) {
  void* created;
  expect_success(dnnl_memory_create(&created, layout, engine(), const_cast<void*>(data)), "use memory");
  return Memory(created);
}

inline Primitive primitive(const Plan& plan) {
  void* created;
  expect_success(dnnl_primitive_create(&created, plan.get()), "compile");
  return Primitive(created);
}

inline void execute(const Primitive& primitive, const std::vector<dnnl_argument>& arguments) {
  expect_success(
      dnnl_primitive_execute(primitive.get(), stream(), static_cast<int>(arguments.size()), arguments.data()),
      "compute");
  expect_success(dnnl_stream_wait(stream()), "compute");
}

// An argument of a primitive
struct Operand {
  Argument argument;
  bool is_output;
  Layout outside;      // of the tensor
  const void* inside;  // the primitive's layout, which belongs to its plan; null when both are the same
  Primitive reorder;   // from one to the other

  Operand(const Plan& plan, Argument argument, Layout of_tensor)
      : argument(argument),
        is_output(argument == kY || argument == kDx || argument == kDweight || argument == kDbias),
        outside(std::move(of_tensor)),
        inside(dnnl_primitive_desc_query_md(plan.get(), kOfArgument, argument)) {
    if (dnnl_memory_desc_equal(inside, outside.get())) {
      inside = nullptr;
      return;
    }
    void* created;
    const void *from = is_output ? inside : outside.get(), *to = is_output ? outside.get() : inside;
    expect_success(dnnl_reorder_primitive_desc_create(&created, from, engine(), to, engine(), nullptr),
                   "copy a tensor");
    reorder = primitive(Plan(created));
  }

  // An input from the tensor to the copy, an output back
  void reorder_between(const void* tensor, const void* copy) const {
    const Memory one = memory(outside.get(), tensor), other = memory(inside, copy);
    void *from = one.get(), *to = other.get();
    if (is_output) std::swap(from, to);
    execute(reorder, {{kFrom, from}, {kTo, to}});
  }
};

// Tensors in the layouts of primitives. Two primitives that read a tensor in the same layout share its copy.
class Copies {
 public:
  // The memory of a copy, filled when the operand is an input
  const float* of(const Operand& operand, const float* tensor) {
    for (const Copy& copy : copies_) {
      if (copy.tensor == tensor && dnnl_memory_desc_equal(copy.layout, operand.inside))
        return copy.memory.part(0);
    }
    const Index size = static_cast<Index>(dnnl_memory_desc_get_size(operand.inside));
    copies_.push_back({tensor, operand.inside, Scratch((size + 3) / 4, 1)});
    const float* found = copies_.back().memory.part(0);
    if (!operand.is_output) operand.reorder_between(tensor, found);
    return found;
  }

 private:
  struct Copy {
    const float* tensor;
    const void* layout;
    Scratch memory;
  };
  std::vector<Copy> copies_;
};

// A primitive for tensors of fixed layouts
class Operator {
 public:
  explicit Operator(Plan plan) : plan_(std::move(plan)), primitive_(primitive(plan_)) {}

  // Adds an argument
  Operator& with(Argument argument, Layout layout) {
    operands_.emplace_back(plan_, argument, std::move(layout));
    return *this;
  }

  // Tensors for the arguments, in the same order
  void run(const std::vector<const float*>& tensors, Copies& copies) const {
    std::vector<const float*> inside;
    std::vector<Memory> memories;
    std::vector<dnnl_argument> arguments;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Operand& operand = operands_[i];
      inside.push_back(operand.inside ? copies.of(operand, tensors[i]) : tensors[i]);
      memories.push_back(memory(operand.inside ? operand.inside : operand.outside.get(), inside[i]));
      arguments.push_back({operand.argument, memories[i].get()});
    }
    execute(primitive_, arguments);
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (operands_[i].is_output && operands_[i].inside) operands_[i].reorder_between(tensors[i], inside[i]);
    }
  }

 private:
  Plan plan_;
  Primitive primitive_;
  std::vector<Operand> operands_;
};

}  // namespace paddle_attn::onednn
