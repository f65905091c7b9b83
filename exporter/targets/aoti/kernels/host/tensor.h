// A tensor of packages that run without libtorch. Handles, which AOTInductor's code takes for
// those of torch, are pointers to it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <memory>

struct AtenTensorOpaque {
  static constexpr int64_t kMostAxes = 8;

  void* data = nullptr;          // of the first number
  std::shared_ptr<void> memory;  // null where it is the caller's
  int64_t axes = 0, offset = 0, sizes[kMostAxes] = {}, strides[kMostAxes] = {};
  int32_t dtype = 0;

  int64_t numel() const {
    int64_t product = 1;
    for (int64_t axis = 0; axis < axes; axis++) product *= sizes[axis];
    return product;
  }

  bool contiguous() const {
    for (int64_t axis = axes, step = 1; axis-- > 0; step *= sizes[axis])
      if (sizes[axis] != 1 && strides[axis] != step) return false;
    return true;
  }

  float* floats() const { return static_cast<float*>(data); }
};

namespace exporter {

enum Type : int32_t {  // the numbers of c10::ScalarType
  kUint8 = 0,
  kInt8 = 1,
  kInt16 = 2,
  kInt32 = 3,
  kInt64 = 4,
  kFloat16 = 5,
  kFloat32 = 6,
  kFloat64 = 7,
  kBool = 11,
  kBfloat16 = 15,
};

int64_t width(int32_t dtype);

// A tensor on memory of the caller's; sizes only: a contiguous one.
AtenTensorHandle on(void* data, int64_t axes, const int64_t* sizes, const int64_t* strides,
                    int32_t dtype);
AtenTensorHandle allocated(int64_t axes, const int64_t* sizes, const int64_t* strides,
                           int32_t dtype);
void copy(const AtenTensorOpaque& from, const AtenTensorOpaque& to);  // equal types and sizes
AtenTensorHandle contiguous_copy(const AtenTensorOpaque& tensor);

}  // namespace exporter
