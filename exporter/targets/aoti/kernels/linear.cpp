// y = x W^T + b with int8 weights, and GELU of that where asked for.
#include "linear.h"

namespace {
constexpr int64_t kMany = 64;  // rows, from which on packing pays
}

// x float32 [..., in], weight int8 [out, in], scale float32 [out], bias float32 [out] or null.
extern "C" AOTITorchError aoti_torch_cpu_int8_linear(AtenTensorHandle x, AtenTensorHandle weight,
                                                     AtenTensorHandle scale,
                                                     AtenTensorHandle* bias, int32_t gelu,
                                                     AtenTensorHandle* y) {
  using namespace exporter;
  const int64_t columns = size(weight, 0), length = size(weight, 1);
  if (columns < 4) return AOTI_TORCH_FAILURE;
  if (const auto error = make(x, columns, y)) return error;
  const Linear linear{data<float>(x),     data<int8_t>(weight),
                      data<float>(scale), bias ? data<float>(*bias) : nullptr,
                      data<float>(*y),    count(x) / length,
                      columns,            length,
                      gelu != 0};
  linear.rows < kMany ? few_rows(linear) : many_rows(linear);
  return AOTI_TORCH_SUCCESS;
}
